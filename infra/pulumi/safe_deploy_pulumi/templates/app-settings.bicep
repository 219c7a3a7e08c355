// Sets app settings of a Function App or a slot, and keeps the others. The Pulumi program deploys it as app-settings.json,
// because Azure reads the present settings at the moment in which it runs the template.

@description('Name of the Function App.')
param app string

@description('Name of the slot. Empty for production.')
param slot string = ''

@description('Settings that are set only if the app does not have them yet. Pipelines and swaps change them.')
param initial object

@description('Settings that always get these values.')
@secure()
param owned object

var site = resourceId('Microsoft.Web/sites', app)
var siteOrSlot = empty(slot) ? site : '${site}/slots/${slot}'

module settings '../../../modules/app-settings.bicep' = {
  name: take('pulumi-app-settings-${slot}-${app}', 64)
  params: {
    app: app
    slot: slot
    current: list('${siteOrSlot}/config/appsettings', '2024-11-01').properties
    initial: initial
    owned: owned
  }
}
