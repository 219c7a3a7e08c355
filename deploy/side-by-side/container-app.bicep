// Envoy and its follower as one Azure Container App, in front of an app with releases side by side. The ingress ends TLS.
// docs/side-by-side.md has the commands.

@description('Name of the container app.')
param name string

param location string = resourceGroup().location

@description('Resource id of the Container Apps environment.')
param environmentId string

@description('URL of the state server.')
param stateServerUrl string

@description('Name of the app on the state server.')
param app string

@description('URI of the secret in Key Vault that holds the state server\'s key with the role router.')
param routerKeySecretUri string

@description('Resource id of a user-assigned identity that may read the secret and pull the images.')
param identityId string

@description('Login server of the container registry. Empty if the images can be pulled without an identity.')
param registryServer string = ''

@description('Image that is built from the Dockerfile beside this file.')
param followerImage string

@description('Image of Envoy 1.37 or newer with a shell, such as envoyproxy/envoy:v1.40.0.')
param envoyImage string

@description('Whether requests from outside of the environment\'s virtual network are accepted.')
param external bool = true

var folder = '/run/envoy'
var port = 8080
var volume = 'routing'
var keySecret = 'router-key'

resource router 'Microsoft.App/containerApps@2024-03-01' = {
  name: name
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    environmentId: environmentId
    configuration: {
      activeRevisionsMode: 'Single'
      ingress: {
        external: external
        targetPort: port
        transport: 'http'
        allowInsecure: false
      }
      registries: empty(registryServer) ? [] : [
        {
          server: registryServer
          identity: identityId
        }
      ]
      secrets: [
        {
          name: keySecret
          keyVaultUrl: routerKeySecretUri
          identity: identityId
        }
      ]
    }
    template: {
      containers: [
        {
          name: 'follower'
          image: followerImage
          args: [
            'router'
            '--target'
            'envoy'
            '--out'
            folder
            '--listen'
            '0.0.0.0:${port}'
          ]
          env: [
            {
              name: 'SAFE_DEPLOY_SERVER'
              value: stateServerUrl
            }
            {
              name: 'SAFE_DEPLOY_APP'
              value: app
            }
            {
              name: 'SAFE_DEPLOY_KEY'
              secretRef: keySecret
            }
          ]
          resources: {
            cpu: json('0.25')
            memory: '0.5Gi'
          }
          volumeMounts: [
            {
              volumeName: volume
              mountPath: folder
            }
          ]
        }
        {
          name: 'envoy'
          image: envoyImage
          // The follower writes envoy.yaml last, when there is a first document.
          command: [
            '/bin/sh'
            '-c'
          ]
          args: [
            'until [ -e ${folder}/envoy.yaml ]; do sleep 1; done; exec envoy -c ${folder}/envoy.yaml --disable-hot-restart'
          ]
          probes: [
            {
              type: 'Readiness'
              tcpSocket: {
                port: port
              }
            }
          ]
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
          volumeMounts: [
            {
              volumeName: volume
              mountPath: folder
            }
          ]
        }
      ]
      // One replica, because each router needs a name of its own.
      scale: {
        minReplicas: 1
        maxReplicas: 1
      }
      volumes: [
        {
          name: volume
          storageType: 'EmptyDir'
        }
      ]
    }
  }
}

@description('The host name that visitors use, or that a custom domain leads to.')
output hostName string = router.properties.configuration.ingress.fqdn

@description('The addresses from which requests reach the releases, for their access restrictions.')
output outboundIpAddresses array = router.properties.outboundIpAddresses
