// The parameters of main.bicep, from environment variables: those of the azd environment, or of the shell that runs `az`.

using 'main.bicep'

param location = readEnvironmentVariable('AZURE_LOCATION')
param resourceGroupName = readEnvironmentVariable(
  'AZURE_RESOURCE_GROUP',
  'rg-${readEnvironmentVariable('AZURE_ENV_NAME', 'state-server')}'
)
param stateApp = readEnvironmentVariable('STATE_APP', '')
param storageAccount = readEnvironmentVariable('STORAGE', '')
param vault = readEnvironmentVariable('VAULT', '')
param topic = readEnvironmentVariable('TOPIC', '')
param operatorPrincipalId = readEnvironmentVariable('AZURE_PRINCIPAL_ID', '')
param alertEmail = readEnvironmentVariable('ALERT_EMAIL', '')
param guardedTaskHubs = json(readEnvironmentVariable('GUARDED_TASK_HUBS', '[]'))
param deleteTaskHubs = bool(readEnvironmentVariable('DELETE_TASK_HUBS', 'false'))
