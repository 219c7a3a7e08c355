// Alerts on lifecycle events that were not published, not delivered, or given up. Verified verdicts do not depend on
// them, but are slower without events.

@description('Topic in the resource group of this module.')
param topic string

@description('Address that alerts are sent to. Empty: alerts are shown in Azure Monitor only.')
param email string

var alerts = [
  {
    name: 'events-dropped'
    metric: 'DroppedEventCount'
    description: 'Event Grid has given up lifecycle events and kept no copy.'
    severity: 1
    threshold: 0
  }
  {
    name: 'events-dead-lettered'
    metric: 'DeadLetteredCount'
    description: 'Event Grid has given up lifecycle events and kept them in the container lifecycle-dead-letters.'
    severity: 1
    threshold: 0
  }
  {
    name: 'event-deliveries-failing'
    metric: 'DeliveryAttemptFailCount'
    description: 'The state server does not accept lifecycle events. Event Grid delivers them again.'
    severity: 2
    // A cold start or a restart fails a few deliveries.
    threshold: 20
  }
  {
    name: 'events-not-published'
    metric: 'PublishFailCount'
    description: 'The topic has refused lifecycle events of a durable app.'
    severity: 2
    threshold: 0
  }
]

resource lifecycleTopic 'Microsoft.EventGrid/topics@2025-02-15' existing = {
  name: topic
}

resource operators 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: '${topic}-operators'
  location: 'global'
  properties: {
    enabled: true
    groupShortName: 'stateserver'
    emailReceivers: [
      {
        name: 'operators'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource metricAlerts 'Microsoft.Insights/metricAlerts@2018-03-01' = [
  for alert in alerts: {
    name: '${topic}-${alert.name}'
    location: 'global'
    properties: {
      description: alert.description
      enabled: true
      severity: alert.severity
      scopes: [
        lifecycleTopic.id
      ]
      evaluationFrequency: 'PT5M'
      windowSize: 'PT15M'
      criteria: {
        'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
        allOf: [
          {
            criterionType: 'StaticThresholdCriterion'
            name: alert.metric
            metricNamespace: 'Microsoft.EventGrid/topics'
            metricName: alert.metric
            operator: 'GreaterThan'
            threshold: alert.threshold
            timeAggregation: 'Total'
          }
        ]
      }
      actions: empty(email)
        ? []
        : [
            {
              actionGroupId: operators.id
            }
          ]
    }
  }
]
