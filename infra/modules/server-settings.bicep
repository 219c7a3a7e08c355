// The app settings of the state server: docs/settings.md says what they mean.

import { taskHubs } from '../types.bicep'

param app string
param storageAccount string
param vault string
param insightsConnectionString string
param guardedTaskHubs taskHubs[]

@description('Client id of the server\'s identity.')
param clientId string

@description('The settings that the app has now.')
@secure()
param current object

var storageSuffix = environment().suffixes.storage
var secretsUri = 'https://${vault}${environment().suffixes.keyvaultDns}/secrets'

// The server refuses other names when an app is registered.
var misnamed = filter(guardedTaskHubs, hubs => !startsWith(hubs.connection, 'STATE_TASKHUBS_'))
var checkedTaskHubs = empty(misnamed)
  ? guardedTaskHubs
  : fail('connection ${misnamed[0].connection}: the name must begin with STATE_TASKHUBS_')

var taskHubSettings = [
  for hubs in checkedTaskHubs: hubs.provider == 'azureStorage'
    ? {
        '${hubs.connection}__blobServiceUri': 'https://${hubs.?storageAccount}.blob.${storageSuffix}'
        '${hubs.connection}__clientId': clientId
        '${hubs.connection}__queueServiceUri': 'https://${hubs.?storageAccount}.queue.${storageSuffix}'
        '${hubs.connection}__tableServiceUri': 'https://${hubs.?storageAccount}.table.${storageSuffix}'
      }
    : hubs.provider == 'scheduler'
        ? {
            '${hubs.connection}': 'Endpoint=${hubs.?endpoint};Authentication=ManagedIdentity;ClientID=${clientId}'
          }
        : {
            '${hubs.connection}__endpoint': hubs.?endpoint
            '${hubs.connection}__key': '@Microsoft.KeyVault(SecretUri=${secretsUri}/${hubs.?keySecret})'
          }
]

module settings 'app-settings.bicep' = {
  name: 'server-app-settings'
  params: {
    app: app
    current: current
    // An operator replaces the reference by one to a version of the secret: see docs/operations.md.
    initial: {
      STATE_KEYS: '@Microsoft.KeyVault(SecretUri=${secretsUri}/state-keys)'
    }
    owned: union(
      {
        APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'Authorization=AAD;ClientId=${clientId}'
        APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
        AzureWebJobsDisableHomepage: 'true'
        AzureWebJobsStorage__blobServiceUri: 'https://${storageAccount}.blob.${storageSuffix}'
        AzureWebJobsStorage__clientId: clientId
        AzureWebJobsStorage__credential: 'managedidentity'
        AzureWebJobsStorage__queueServiceUri: 'https://${storageAccount}.queue.${storageSuffix}'
        AzureWebJobsStorage__tableServiceUri: 'https://${storageAccount}.table.${storageSuffix}'
        STATE_STORAGE__clientId: clientId
        STATE_STORAGE__tableServiceUri: 'https://${storageAccount}.table.${storageSuffix}'
      },
      shallowMerge(taskHubSettings)
    )
  }
}
