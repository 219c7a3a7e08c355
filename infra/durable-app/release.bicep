// One release of a guarded durable app whose releases run side by side: a Function App with a plan of its own on Flex
// Consumption. Deploy shared.bicep once before. docs/side-by-side.md says how `safe-deploy release` runs this template.

@description('Name of the Function App, unique worldwide, and of its plan and its container.')
@maxLength(32)
param name string

param location string = resourceGroup().location

@description('Name of the identity of shared.bicep.')
param identity string

@description('Storage account of shared.bicep.')
param storageAccount string

@description('Task hub of the release. Is set while the app is new. Later values have no effect.')
param taskHub string

@description('App setting that host.json takes the name of the task hub from.')
param taskHubSetting string = 'TASK_HUB'

@description('Addresses from which the router calls the release, in CIDR notation. No other caller is admitted.')
@minLength(1)
param routerAddresses string[]

@description('Language of the app.')
param runtime string = 'python'

@description('Version of the language.')
param runtimeVersion string = '3.13'

@description('Functions of the policy\'s quiesceFunctions. They are disabled while the app is new, and enabled when it is promoted.')
param quiesceFunctions string[] = []

@description('Name of the Durable Task Scheduler in this resource group. Empty: the task hub is on Azure Storage.')
param scheduler string = ''

@description('Name of the topic for lifecycle events. Empty: the release publishes none.')
param topic string = ''

@description('Resource group of the topic.')
param topicResourceGroup string = resourceGroup().name

@description('Subscription of the topic.')
param topicSubscription string = subscription().subscriptionId

var disabledSettingNames = map(quiesceFunctions, function => 'AzureWebJobs.${function}.Disabled')

resource existingIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: identity
}

resource storage 'Microsoft.Storage/storageAccounts@2025-01-01' existing = {
  name: storageAccount

  resource blobs 'blobServices' existing = {
    name: 'default'

    resource packages 'containers' = {
      name: name
    }
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: name
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

// `safe-deploy release --scheduler` creates it before. Then this changes nothing.
resource existingScheduler 'Microsoft.DurableTask/schedulers@2025-11-01' existing = if (!empty(scheduler)) {
  name: empty(scheduler) ? 'none' : scheduler

  resource hub 'taskHubs' = if (!empty(scheduler)) {
    name: taskHub
  }
}

resource site 'Microsoft.Web/sites@2024-11-01' = {
  name: name
  location: location
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${existingIdentity.id}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: existingIdentity.id
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${storage::blobs::packages.name}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: existingIdentity.id
          }
        }
      }
      runtime: {
        name: runtime
        version: runtimeVersion
      }
      scaleAndConcurrency: {
        instanceMemoryMB: 2048
        maximumInstanceCount: 100
      }
    }
    siteConfig: {
      http20Enabled: true
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      // Tokens protect nothing if a client can call the release without the router.
      ipSecurityRestrictionsDefaultAction: 'Deny'
      ipSecurityRestrictions: [
        for (address, index) in routerAddresses: {
          name: 'router-${index}'
          action: 'Allow'
          ipAddress: address
          priority: 100 + index
        }
      ]
    }
  }

  resource scmCredentials 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: {
      allow: false
    }
  }
}

resource lifecycleTopic 'Microsoft.EventGrid/topics@2025-02-15' existing = if (!empty(topic)) {
  name: empty(topic) ? 'none' : topic
  scope: resourceGroup(topicSubscription, topicResourceGroup)
}

module settings 'settings.bicep' = {
  name: take('settings-${name}', 64)
  params: {
    app: site.name
    current: list('${site.id}/config/appsettings', '2024-11-01').properties
    initial: union(
      {
        '${taskHubSetting}': taskHub
      },
      toObject(disabledSettingNames, settingName => settingName, settingName => 'true')
    )
    clientId: existingIdentity.properties.clientId
    storageAccount: storageAccount
    topicEndpoint: empty(topic) ? '' : lifecycleTopic!.properties.endpoint!
    topicKey: empty(topic) ? '' : lifecycleTopic!.listKeys().key1
    extra: empty(scheduler)
      ? {}
      : {
          DURABLE_TASK_SCHEDULER_CONNECTION_STRING: 'Endpoint=${existingScheduler!.properties.endpoint!};Authentication=ManagedIdentity;ClientID=${existingIdentity.properties.clientId}'
        }
  }
}

output address string = 'https://${site.properties.defaultHostName}'
