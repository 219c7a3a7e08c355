// A guarded durable app with a staging slot. Every version has a task hub of its own, whose name is an app setting that
// moves with the code when the slots are swapped.
//
// The template can run again at any time but between `safe-deploy stage` and the end of the swap. It owns nothing that a
// swap moves and that differs between the slots: neither the name of the task hub, nor the version of the runtime, nor
// whether a slot runs. Both slots have the same identity.

@description('Name of the Function App, unique worldwide.')
param name string

param location string = resourceGroup().location

@description('Name of the storage account of the task hubs, unique worldwide.')
param storageAccount string

@description('Task hub of production when the app is new: the name that production uses today. Later values have no effect.')
param taskHub string

@description('Task hub of the staging slot when it is new. Two slots must never run on one task hub. Later values have no effect.')
param stagingTaskHub string

@description('App setting that host.json takes the name of the task hub from.')
param taskHubSetting string = 'TASK_HUB'

@description('Name of the slot that releases are staged in.')
param stagingSlot string = 'staging'

@description('Pricing tier of the App Service plan: one with slots that needs no Azure Files share, so S1 or larger.')
param planSku string = 'P0v3'

@description('Language of the app, as in FUNCTIONS_WORKER_RUNTIME.')
param runtime string = 'python'

@description('Runtime of both slots when they are new, as in linuxFxVersion. Later values have no effect.')
param runtimeVersion string = 'PYTHON|3.13'

@description('Functions that start work by themselves, such as those with a timer. They are disabled in the staging slot.')
param functionsDisabledInStaging string[] = []

@description('Name of the topic for lifecycle events. Empty: the app publishes none.')
param topic string = ''

@description('Resource group of the topic.')
param topicResourceGroup string = resourceGroup().name

@description('Subscription of the topic.')
param topicSubscription string = subscription().subscriptionId

var disabledSettingNames = map(functionsDisabledInStaging, function => 'AzureWebJobs.${function}.Disabled')
var disabledSettings = toObject(disabledSettingNames, settingName => settingName, settingName => 'true')
var checkedStagingTaskHub = toLower(stagingTaskHub) == toLower(taskHub)
  ? fail('the staging slot must not have the task hub ${taskHub} of production')
  : stagingTaskHub

module shared 'shared.bicep' = {
  name: take('shared-${name}', 64)
  params: {
    name: name
    location: location
    storageAccount: storageAccount
  }
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: name
  location: location
  kind: 'linux'
  sku: {
    name: planSku
  }
  properties: {
    reserved: true
  }
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' existing = {
  name: name
}

// Without app settings, which would replace those that pipelines have set, and without a runtime version.
var siteProperties = {
  serverFarmId: plan.id
  httpsOnly: true
  keyVaultReferenceIdentity: identity.id
  siteConfig: {
    alwaysOn: true
    ftpsState: 'Disabled'
    http20Enabled: true
    minTlsVersion: '1.2'
    scmMinTlsVersion: '1.2'
  }
}

resource site 'Microsoft.Web/sites@2024-11-01' = {
  name: name
  location: location
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: siteProperties
  dependsOn: [
    shared
  ]

  resource ftpCredentials 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: {
      allow: false
    }
  }

  resource scmCredentials 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: {
      allow: false
    }
  }

  // The names of all settings that stay with their slot. The task hub must not be one of them.
  resource stickySettings 'config' = {
    name: 'slotConfigNames'
    properties: {
      appSettingNames: disabledSettingNames
    }
  }

  resource slot 'slots' = {
    name: stagingSlot
    location: location
    kind: 'functionapp,linux'
    identity: {
      type: 'UserAssigned'
      userAssignedIdentities: {
        '${identity.id}': {}
      }
    }
    properties: siteProperties

    resource ftpCredentials 'basicPublishingCredentialsPolicies' = {
      name: 'ftp'
      properties: {
        allow: false
      }
    }

    resource scmCredentials 'basicPublishingCredentialsPolicies' = {
      name: 'scm'
      properties: {
        allow: false
      }
    }
  }
}

resource lifecycleTopic 'Microsoft.EventGrid/topics@2025-02-15' existing = if (!empty(topic)) {
  name: empty(topic) ? 'none' : topic
  scope: resourceGroup(topicSubscription, topicResourceGroup)
}

module productionSettings 'settings.bicep' = {
  name: take('production-settings-${name}', 64)
  params: {
    app: site.name
    current: list('${site.id}/config/appsettings', '2024-11-01').properties
    initial: {
      '${taskHubSetting}': taskHub
    }
    clientId: shared.outputs.clientId
    storageAccount: storageAccount
    topicEndpoint: empty(topic) ? '' : lifecycleTopic!.properties.endpoint!
    topicKey: empty(topic) ? '' : lifecycleTopic!.listKeys().key1
    extra: {
      FUNCTIONS_EXTENSION_VERSION: '~4'
      FUNCTIONS_WORKER_RUNTIME: runtime
      WEBSITE_ADD_SITENAME_BINDINGS_IN_APPHOST_CONFIG: '1'
    }
  }
}

module stagingSettings 'settings.bicep' = {
  name: take('staging-settings-${name}', 64)
  params: {
    app: site.name
    slot: stagingSlot
    current: list('${site::slot.id}/config/appsettings', '2024-11-01').properties
    initial: {
      '${taskHubSetting}': checkedStagingTaskHub
    }
    clientId: shared.outputs.clientId
    storageAccount: storageAccount
    topicEndpoint: empty(topic) ? '' : lifecycleTopic!.properties.endpoint!
    topicKey: empty(topic) ? '' : lifecycleTopic!.listKeys().key1
    extra: union(
      {
        FUNCTIONS_EXTENSION_VERSION: '~4'
        FUNCTIONS_WORKER_RUNTIME: runtime
        WEBSITE_ADD_SITENAME_BINDINGS_IN_APPHOST_CONFIG: '1'
      },
      disabledSettings
    )
  }
}

module productionRuntime 'runtime.bicep' = {
  name: take('production-runtime-${name}', 64)
  params: {
    app: site.name
    current: reference('${site.id}/config/web', '2024-11-01').linuxFxVersion
    initial: runtimeVersion
  }
}

module stagingRuntime 'runtime.bicep' = {
  name: take('staging-runtime-${name}', 64)
  params: {
    app: site.name
    slot: stagingSlot
    current: reference('${site::slot.id}/config/web', '2024-11-01').linuxFxVersion
    initial: runtimeVersion
  }
}

output hostName string = site.properties.defaultHostName
output stagingHostName string = site::slot.properties.defaultHostName
