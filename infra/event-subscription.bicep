// Sends lifecycle events from the topic to the state server. Event Grid refuses a function that does not exist, so this
// is deployed after the code.

@description('Name of the Function App of the state server.')
param stateApp string

@description('Name of the topic.')
param topic string

@description('Name of the server\'s storage account, which has the container for events that were not delivered.')
param storageAccount string

resource site 'Microsoft.Web/sites@2024-11-01' existing = {
  name: stateApp
}

resource account 'Microsoft.Storage/storageAccounts@2025-01-01' existing = {
  name: storageAccount
}

resource lifecycleTopic 'Microsoft.EventGrid/topics@2025-02-15' existing = {
  name: topic
}

resource subscriptionToServer 'Microsoft.EventGrid/topics/eventSubscriptions@2025-02-15' = {
  parent: lifecycleTopic
  name: 'state-server'
  properties: {
    destination: {
      endpointType: 'AzureFunction'
      properties: {
        resourceId: '${site.id}/functions/RecordLifecycleEvent'
        // With batches, one failure returns the whole batch.
        maxEventsPerBatch: 1
        preferredBatchSizeInKilobytes: 64
      }
    }
    eventDeliverySchema: 'EventGridSchema'
    filter: {
      includedEventTypes: [
        'orchestratorEvent'
      ]
    }
    retryPolicy: {
      maxDeliveryAttempts: 30
      eventTimeToLiveInMinutes: 1440
    }
    // The account refuses keys, so the identity of the topic writes.
    deadLetterWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      deadLetterDestination: {
        endpointType: 'StorageBlob'
        properties: {
          resourceId: account.id
          blobContainerName: 'lifecycle-dead-letters'
        }
      }
    }
  }
}
