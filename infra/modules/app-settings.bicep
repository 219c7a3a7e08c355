// Sets app settings of a Function App or a slot, and keeps the others.
//
// Azure replaces all app settings at once, so this module writes what exists together with its own. It writes only if
// that makes a difference: a write restarts the app, and would undo a swap that took place since the settings were read.

@description('Name of the Function App.')
param app string

@description('Name of the slot. Empty for production.')
param slot string = ''

@description('The settings that the app has now.')
@secure()
param current object

@description('Settings that are set only if the app does not have them yet. Pipelines and swaps change them.')
param initial object

@description('Settings that always get these values.')
@secure()
param owned object

var wanted = union(initial, current, owned)

resource site 'Microsoft.Web/sites@2024-11-01' existing = {
  name: app
}

resource siteSettings 'Microsoft.Web/sites/config@2024-11-01' = if (empty(slot) && wanted != current) {
  parent: site
  name: 'appsettings'
  properties: wanted
}

resource siteSlot 'Microsoft.Web/sites/slots@2024-11-01' existing = if (!empty(slot)) {
  parent: site
  // A name that is not used, because the name of a resource must not be empty.
  name: empty(slot) ? 'none' : slot
}

resource slotSettings 'Microsoft.Web/sites/slots/config@2024-11-01' = if (!empty(slot) && wanted != current) {
  parent: siteSlot
  name: 'appsettings'
  properties: wanted
}
