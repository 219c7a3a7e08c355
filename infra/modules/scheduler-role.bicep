// Assigns a role on an existing Durable Task Scheduler, for all of its task hubs.

@description('Scheduler in the resource group of this module.')
param scheduler string

@description('Object id of the identity that gets the role.')
param principalId string

@description('Id of the role definition.')
param roleId string

resource existingScheduler 'Microsoft.DurableTask/schedulers@2025-11-01' existing = {
  name: scheduler
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(existingScheduler.id, principalId, roleId)
  scope: existingScheduler
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roleId)
  }
}
