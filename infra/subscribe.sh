#!/bin/sh
# Creates the Event Grid subscription that delivers lifecycle events to the state server. azd runs this script after it
# has deployed the code, because Event Grid refuses a function that does not exist. Azure may list the functions of new
# code some minutes later, so the script tries again after a failure.
#
# Needs the variables of the azd environment, and `az` logged in.
set -eu

attempts=10
seconds_between=30

attempt=1
until az deployment group create ${AZURE_SUBSCRIPTION_ID:+--subscription "$AZURE_SUBSCRIPTION_ID"} \
  --resource-group "$AZURE_RESOURCE_GROUP" --name event-subscription --template-file infra/event-subscription.bicep \
  --parameters stateApp="$STATE_APP" topic="$TOPIC" storageAccount="$STORAGE" --output none; do
  if [ "$attempt" -ge "$attempts" ]; then
    echo "Lifecycle events are not sent to $STATE_APP: the subscription failed $attempts times." >&2
    echo "Verified verdicts do not need events. Run azd hooks run postdeploy when the message above is resolved." >&2
    exit 1
  fi
  echo "Attempt $attempt of $attempts failed. Azure may not have listed the functions yet: next attempt in $seconds_between s." >&2
  attempt=$((attempt + 1))
  sleep "$seconds_between"
done
echo "Lifecycle events are sent to $STATE_APP."
