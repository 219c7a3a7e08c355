// The app settings of one slot or release of a guarded durable app.

@description('Name of the Function App.')
param app string

@description('Name of the slot. Empty for production, and for a release.')
param slot string = ''

@description('The settings that the app has now.')
@secure()
param current object

@description('Settings that are set only if the app does not have them yet. Pipelines and swaps change them.')
param initial object

@description('Client id of the app\'s identity.')
param clientId string

@description('Storage account of the Functions host, and of task hubs on Azure Storage.')
param storageAccount string

@description('Endpoint of the topic for lifecycle events. Empty: the app publishes none.')
param topicEndpoint string

@description('Key of the topic.')
@secure()
param topicKey string

@description('Further settings that always get these values.')
param extra object

var storageSuffix = environment().suffixes.storage

module settings '../modules/app-settings.bicep' = {
  name: take('app-settings-${slot}-${app}', 64)
  params: {
    app: app
    slot: slot
    current: current
    initial: initial
    owned: union(
      {
        AzureWebJobsStorage__blobServiceUri: 'https://${storageAccount}.blob.${storageSuffix}'
        AzureWebJobsStorage__clientId: clientId
        AzureWebJobsStorage__credential: 'managedidentity'
        AzureWebJobsStorage__queueServiceUri: 'https://${storageAccount}.queue.${storageSuffix}'
        AzureWebJobsStorage__tableServiceUri: 'https://${storageAccount}.table.${storageSuffix}'
      },
      empty(topicEndpoint)
        ? {}
        : {
            LIFECYCLE_TOPIC_ENDPOINT: topicEndpoint
            LIFECYCLE_TOPIC_KEY: topicKey
          },
      extra
    )
  }
}
