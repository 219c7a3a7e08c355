// Sets the runtime version of a slot that has none. The Pulumi program deploys it as runtime-version.json, because a swap
// moves the version, and Azure reads it at the moment in which it runs the template.

@description('Name of the Function App.')
param app string

@description('Name of the slot. Empty for production.')
param slot string = ''

@description('Runtime version of a slot that has none, as in linuxFxVersion.')
param initial string

var site = resourceId('Microsoft.Web/sites', app)
var siteOrSlot = empty(slot) ? site : '${site}/slots/${slot}'

module runtime '../../../durable-app/runtime.bicep' = {
  name: take('pulumi-runtime-${slot}-${app}', 64)
  params: {
    app: app
    slot: slot
    current: reference('${siteOrSlot}/config/web', '2024-11-01').linuxFxVersion
    initial: initial
  }
}
