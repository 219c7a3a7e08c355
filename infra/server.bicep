// The state server: Function App, identity, storage account, key vault, topic, Application Insights and alerts.

import { taskHubs } from 'types.bicep'
import { roles } from 'roles.bicep'

param location string
param stateApp string
param storageAccount string
param vault string
param topic string
param operatorPrincipalId string
param alertEmail string
param pythonVersion string
param guardedTaskHubs taskHubs[]

var packageContainer = 'package'

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: stateApp
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

  resource blobs 'blobServices' = {
    name: 'default'

    resource packages 'containers' = {
      name: packageContainer
    }

    resource deadLetters 'containers' = {
      name: 'lifecycle-dead-letters'
    }
  }
}

// The Functions host needs to own its blobs. The state is in tables.
module storageRoles 'modules/storage-roles.bicep' = {
  name: 'server-storage-roles'
  params: {
    storageAccount: storage.name
    principalId: identity.properties.principalId
    roleIds: [
      roles.storageBlobDataOwner
      roles.storageTableDataContributor
    ]
  }
}

resource keyVault 'Microsoft.KeyVault/vaults@2024-11-01' = {
  name: vault
  location: location
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
  }
}

resource readSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(keyVault.id, identity.id, roles.keyVaultSecretsUser)
  scope: keyVault
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsUser)
  }
}

// Without principalType, because the operator may be a user or a service principal.
resource writeSecrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(operatorPrincipalId)) {
  name: guid(keyVault.id, operatorPrincipalId, roles.keyVaultSecretsOfficer)
  scope: keyVault
  properties: {
    principalId: operatorPrincipalId
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsOfficer)
  }
}

resource lifecycleTopic 'Microsoft.EventGrid/topics@2025-02-15' = {
  name: topic
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    inputSchema: 'EventGridSchema'
    minimumTlsVersionAllowed: '1.2'
  }
}

resource writeDeadLetters 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(storage::blobs::deadLetters.id, lifecycleTopic.id, roles.storageBlobDataContributor)
  scope: storage::blobs::deadLetters
  properties: {
    principalId: lifecycleTopic.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.storageBlobDataContributor
    )
  }
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' = {
  name: stateApp
  location: location
  properties: {
    retentionInDays: 30
    sku: {
      name: 'PerGB2018'
    }
  }
}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: stateApp
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
    DisableLocalAuth: true
    WorkspaceResourceId: workspace.id
  }
}

resource publishTelemetry 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, identity.id, roles.monitoringMetricsPublisher)
  scope: insights
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId(
      'Microsoft.Authorization/roleDefinitions',
      roles.monitoringMetricsPublisher
    )
  }
}

module alerts 'modules/event-alerts.bicep' = {
  name: 'event-alerts'
  params: {
    topic: lifecycleTopic.name
    email: alertEmail
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: stateApp
  location: location
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource site 'Microsoft.Web/sites@2024-11-01' = {
  name: stateApp
  location: location
  kind: 'functionapp,linux'
  // azd finds the app of the service in azure.yaml by this tag.
  tags: {
    'azd-service-name': 'state-server'
  }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identity.id
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identity.id
          }
        }
      }
      runtime: {
        name: 'python'
        version: pythonVersion
      }
      scaleAndConcurrency: {
        instanceMemoryMB: 2048
        maximumInstanceCount: 40
      }
    }
    siteConfig: {
      http20Enabled: true
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
    }
  }
  // The host reads its storage and the package when it starts.
  dependsOn: [
    storageRoles
    readSecrets
  ]

  resource scmCredentials 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: {
      allow: false
    }
  }
}

module settings 'modules/server-settings.bicep' = {
  name: 'server-settings'
  params: {
    app: site.name
    storageAccount: storage.name
    vault: keyVault.name
    insightsConnectionString: insights.properties.ConnectionString
    guardedTaskHubs: guardedTaskHubs
    clientId: identity.properties.clientId
    current: list('${site.id}/config/appsettings', '2024-11-01').properties
  }
}

output stateApp string = site.name
output storageAccount string = storage.name
output vault string = keyVault.name
output topic string = lifecycleTopic.name
output hostName string = site.properties.defaultHostName
output principalId string = identity.properties.principalId
