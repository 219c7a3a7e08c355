// Sets the runtime version of a slot that has none. A swap moves the version with the code, so it must not be set again.

@description('Name of the Function App.')
param app string

@description('Name of the slot. Empty for production.')
param slot string = ''

@description('The runtime version that the slot has now. Empty if it has none.')
param current string

@description('Runtime version of a slot that has none.')
param initial string

resource site 'Microsoft.Web/sites@2024-11-01' existing = {
  name: app
}

resource siteRuntime 'Microsoft.Web/sites/config@2024-11-01' = if (empty(slot) && empty(current)) {
  parent: site
  name: 'web'
  properties: {
    linuxFxVersion: initial
  }
}

resource siteSlot 'Microsoft.Web/sites/slots@2024-11-01' existing = if (!empty(slot)) {
  parent: site
  // A name that is not used, because the name of a resource must not be empty.
  name: empty(slot) ? 'none' : slot
}

resource slotRuntime 'Microsoft.Web/sites/slots/config@2024-11-01' = if (!empty(slot) && empty(current)) {
  parent: siteSlot
  name: 'web'
  properties: {
    linuxFxVersion: initial
  }
}
