// The task hubs that the state server reads. docs/azure.md says what each member means.

@export()
@discriminator('provider')
type taskHubs = azureStorageTaskHubs | schedulerTaskHubs | managementApiTaskHubs

type azureStorageTaskHubs = {
  provider: 'azureStorage'

  @description('Setting of the server that apps name as their connection. Begins with STATE_TASKHUBS_.')
  connection: string

  @description('Storage account of the durable app.')
  storageAccount: string

  @description('Resource group of the storage account.')
  resourceGroup: string

  @description('Subscription of the storage account, if it is another one than that of the server.')
  subscription: string?
}

type schedulerTaskHubs = {
  provider: 'scheduler'

  @description('Setting of the server that apps name as their connection. Begins with STATE_TASKHUBS_.')
  connection: string

  @description('Name of the scheduler.')
  scheduler: string

  @description('Endpoint of the scheduler, such as https://shop.westeurope.durabletask.io.')
  endpoint: string

  @description('Resource group of the scheduler.')
  resourceGroup: string

  @description('Subscription of the scheduler, if it is another one than that of the server.')
  subscription: string?
}

type managementApiTaskHubs = {
  provider: 'managementApi'

  @description('Setting of the server that apps name as their connection. Begins with STATE_TASKHUBS_.')
  connection: string

  @description('Address of the durable app, such as https://shop-4711.azurewebsites.net.')
  endpoint: string

  @description('Secret in the server\'s key vault that holds the system key durabletask_extension of the durable app.')
  keySecret: string
}
