// What all slots or releases of a guarded durable app share: an identity, and the storage account of the task hubs.
//
// For an app with slots, slots.bicep contains it. For releases side by side, deploy it once before the first release.

import { roles } from '../roles.bicep'

@description('Name of the identity.')
param name string

param location string = resourceGroup().location

@description('Name of the storage account of the task hubs, unique worldwide.')
param storageAccount string

@description('Name of the Durable Task Scheduler in this resource group. Empty: the task hubs are on Azure Storage.')
param scheduler string = ''

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: name
  location: location
}

resource storage 'Microsoft.Storage/storageAccounts@2025-01-01' = {
  name: storageAccount
  location: location
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

// The Functions host needs to own its blobs. Durable Functions writes tables, queues and blobs.
module storageRoles '../modules/storage-roles.bicep' = {
  name: take('storage-roles-${name}', 64)
  params: {
    storageAccount: storage.name
    principalId: identity.properties.principalId
    roleIds: [
      roles.storageBlobDataOwner
      roles.storageQueueDataContributor
      roles.storageTableDataContributor
    ]
  }
}

module schedulerRole '../modules/scheduler-role.bicep' = if (!empty(scheduler)) {
  name: take('scheduler-role-${name}', 64)
  params: {
    scheduler: scheduler
    principalId: identity.properties.principalId
    roleId: roles.durableTaskDataContributor
  }
}

output clientId string = identity.properties.clientId
