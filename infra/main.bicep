// The state server in a resource group of its own, and its access to the task hubs that it reads.
//
// `azd up` deploys this template, the code, and event-subscription.bicep. docs/azure.md has the commands, also for `az`.

import { taskHubs } from 'types.bicep'
import { roles } from 'roles.bicep'

targetScope = 'subscription'

@description('Region of all resources.')
param location string

@description('Resource group of the state server. Is created.')
param resourceGroupName string

@description('Name of the Function App of the state server, unique worldwide. Empty: a name is made.')
param stateApp string = ''

@description('Name of the storage account of the state, unique worldwide. Empty: a name is made.')
param storageAccount string = ''

@description('Name of the key vault with the server\'s keys, unique worldwide. Empty: a name is made.')
param vault string = ''

@description('Name of the Event Grid topic for lifecycle events. Empty: a name is made.')
param topic string = ''

@description('Object id of the user or service principal that stores the server\'s keys in the vault. Empty: nobody.')
param operatorPrincipalId string = ''

@description('Address that alerts are sent to. Empty: alerts are shown in Azure Monitor only.')
param alertEmail string = ''

@description('Version of Python that runs the server.')
param pythonVersion string = '3.11'

@description('The task hubs that the server reads.')
param guardedTaskHubs taskHubs[] = []

@description('Whether Cleanup may delete task hubs on Azure Storage, which lets the server write to these accounts.')
param deleteTaskHubs bool = false

var token = uniqueString(subscription().id, resourceGroupName)

// Both lists have a role for each of tables, queues and blobs. Reading task hubs needs all three: see docs/azure.md.
var readerRoles = [
  roles.storageTableDataReader
  roles.storageQueueDataReader
  roles.storageBlobDataReader
]
var contributorRoles = [
  roles.storageTableDataContributor
  roles.storageQueueDataContributor
  roles.storageBlobDataContributor
]

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: resourceGroupName
  location: location
}

module server 'server.bicep' = {
  name: 'state-server'
  scope: group
  params: {
    location: location
    stateApp: empty(stateApp) ? 'state-${token}' : stateApp
    storageAccount: empty(storageAccount) ? 'state${token}' : storageAccount
    vault: empty(vault) ? 'state-${token}' : vault
    topic: empty(topic) ? 'lifecycle-${token}' : topic
    operatorPrincipalId: operatorPrincipalId
    alertEmail: alertEmail
    pythonVersion: pythonVersion
    guardedTaskHubs: guardedTaskHubs
  }
}

module storageAccess 'modules/storage-roles.bicep' = [
  for hubs in guardedTaskHubs: if (hubs.provider == 'azureStorage') {
    name: 'read-${toLower(replace(hubs.connection, '_', '-'))}'
    scope: resourceGroup(
      hubs.?subscription ?? subscription().subscriptionId,
      hubs.?resourceGroup ?? resourceGroupName
    )
    params: {
      storageAccount: hubs.?storageAccount ?? ''
      principalId: server.outputs.principalId
      roleIds: deleteTaskHubs ? contributorRoles : readerRoles
    }
  }
]

module schedulerAccess 'modules/scheduler-role.bicep' = [
  for hubs in guardedTaskHubs: if (hubs.provider == 'scheduler') {
    name: 'read-${toLower(replace(hubs.connection, '_', '-'))}'
    scope: resourceGroup(
      hubs.?subscription ?? subscription().subscriptionId,
      hubs.?resourceGroup ?? resourceGroupName
    )
    params: {
      scheduler: hubs.?scheduler ?? ''
      principalId: server.outputs.principalId
      roleId: roles.durableTaskDataReader
    }
  }
]

// azd stores outputs in its environment. The names are those of docs/azure.md.
output AZURE_RESOURCE_GROUP string = group.name
output STATE_APP string = server.outputs.stateApp
output STORAGE string = server.outputs.storageAccount
output VAULT string = server.outputs.vault
output TOPIC string = server.outputs.topic
output HOST string = server.outputs.hostName
output PRINCIPAL string = server.outputs.principalId
