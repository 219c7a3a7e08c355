#!/bin/sh
# Creates the first key of the state server, an administrator's with the name operators, and stores it in the vault. azd
# runs this script after it has provisioned. A vault that has keys stays as it is. The role to write secrets takes effect
# some minutes after it was assigned, so the script tries again after a failure.
#
# Needs the variables of the azd environment, `az` logged in, and openssl.
set -eu
umask 077

attempts=10
seconds_between=30

secret() {
  command=$1
  shift
  az keyvault secret "$command" ${AZURE_SUBSCRIPTION_ID:+--subscription "$AZURE_SUBSCRIPTION_ID"} \
    --vault-name "$VAULT" "$@"
}

attempt=1
until existing=$(secret list --query "[?name=='state-keys'].name" --output tsv); do
  if [ "$attempt" -ge "$attempts" ]; then
    echo "The server has no keys: the vault $VAULT refused $attempts times." >&2
    echo "Run azd hooks run postprovision when the message above is resolved." >&2
    exit 1
  fi
  echo "Attempt $attempt of $attempts failed. The new role may not be in effect: next attempt in $seconds_between s." >&2
  attempt=$((attempt + 1))
  sleep "$seconds_between"
done
if [ -n "$existing" ]; then
  echo "The server keeps the keys that are in the vault $VAULT."
  exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
openssl rand -hex 32 | tr -d '\n' >"$folder/operator-key"
digest=$(openssl dgst -sha256 -r "$folder/operator-key" | cut -d ' ' -f 1)
# The server gets the SHA-256 alone.
printf '[{"name": "operators", "role": "admin", "sha256": "%s"}]' "$digest" >"$folder/state-keys"
secret set --name operator-key --file "$folder/operator-key" --output none
keys=$(secret set --name state-keys --file "$folder/state-keys" --query id --output tsv)
# A reference to a version makes the server read it at once.
az functionapp config appsettings set ${AZURE_SUBSCRIPTION_ID:+--subscription "$AZURE_SUBSCRIPTION_ID"} \
  --resource-group "$AZURE_RESOURCE_GROUP" --name "$STATE_APP" --output none \
  --settings "STATE_KEYS=@Microsoft.KeyVault(SecretUri=$keys)"
echo "The server's first key, operators, is the secret operator-key of the vault $VAULT."
