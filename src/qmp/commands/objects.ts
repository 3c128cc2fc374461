import { blockError } from '../../errors/index.js'
import { Authorization } from '../../formatkit/authz/index.js'
import { defineObject } from '../../formatkit/user-objects.js'
import { type BlockLayer, ioThreadValues, type UserObject } from '../../graph/index.js'
import { type ThrottleLimits, throttleBuckets, throttleLimits } from '../../io/index.js'
import { type AuthorizationSpec, type JsonObject, type JsonValue, readObject } from '../../options/index.js'
import type { CommandContext } from '../context.js'
import { defineHandlers } from '../handlers.js'
import type { TypeOf } from '../schema/types.js'

type Property = TypeOf<'ObjectPropertyInfo'>

const intNames = throttleBuckets.flatMap((name) => [`x-${name}`, `x-${name}-max`, `x-${name}-max-length`])

/** What user objects are: their properties, and the class above. */
const classes: Readonly<
  Record<string, { readonly parent: string; readonly properties: readonly Property[] }>
> = {
  'authz-simple': { parent: 'authz', properties: [{ name: 'identity', type: 'string' }] },
  'authz-list-file': {
    parent: 'authz',
    properties: [
      { name: 'filename', type: 'string' },
      { name: 'refresh', type: 'bool' },
    ],
  },
  'authz-list': {
    parent: 'authz',
    properties: [
      { name: 'policy', type: 'QAuthZListPolicy' },
      { name: 'rules', type: 'QAuthZListRule' },
    ],
  },
  iothread: {
    parent: 'event-loop-base',
    properties: [
      ...['thread-pool-min', 'aio-max-batch', 'thread-pool-max'],
      ...['poll-max-ns', 'poll-grow', 'poll-shrink'],
    ].map((name) => ({ name, type: 'int' })),
  },
  secret: {
    parent: 'secret_common',
    properties: [
      ...['iv', 'keyid', 'file', 'data'].map((name) => ({ name, type: 'string' })),
      { name: 'loaded', type: 'bool' },
      { name: 'format', type: 'QCryptoSecretFormat' },
    ],
  },
  'throttle-group': {
    parent: 'object',
    properties: [
      { name: 'limits', type: 'ThrottleLimits' },
      ...[...intNames, 'x-iops-size'].map((name) => ({ name, type: 'int' })),
    ],
  },
  'tls-creds-x509': {
    parent: 'tls-creds',
    properties: [
      ...['passwordid', 'dir', 'priority'].map((name) => ({ name, type: 'string' })),
      ...['loaded', 'sanity-check', 'verify-peer'].map((name) => ({ name, type: 'bool' })),
      { name: 'endpoint', type: 'QCryptoTLSCredsEndpoint' },
    ],
  },
  'tls-creds-psk': {
    parent: 'tls-creds',
    properties: [
      ...['username', 'dir', 'priority'].map((name) => ({ name, type: 'string' })),
      ...['loaded', 'verify-peer'].map((name) => ({ name, type: 'bool' })),
      { name: 'endpoint', type: 'QCryptoTLSCredsEndpoint' },
    ],
  },
}

const typeProperty: Property = { name: 'type', type: 'string' }

/** User objects, and the small part of QOM through which they can be looked at. */
export function objectCommands({ layer, chardevs }: CommandContext) {
  const find = (path: string): UserObject => {
    const object = layer.objects.find(path.startsWith('/objects/') ? path.slice('/objects/'.length) : path)
    if (object === undefined) {
      throw blockError('ENODEV', `Device '${path}' not found`, { errorClass: 'DeviceNotFound' })
    }
    return object
  }
  return defineHandlers({
    'object-add': async (args) => {
      await defineObject(layer, readObject(args as unknown as JsonObject))
    },
    'object-del': ({ id }) => layer.objects.remove(id),
    'qom-list': ({ path }) => {
      switch (path.length > 1 ? path.replace(/\/$/, '') : path) {
        case '/':
          return [
            typeProperty,
            { name: 'objects', type: 'child<container>' },
            { name: 'chardevs', type: 'child<container>' },
          ]
        case '/objects':
          return [
            typeProperty,
            ...layer.objects.list().map(({ id, type }) => ({ name: id, type: `child<${type}>` })),
          ]
        case '/chardevs':
          return [
            typeProperty,
            ...chardevs.list().map(({ label }) => ({ name: label, type: 'child<chardev>' })),
          ]
        default:
          return [typeProperty, ...(classes[find(path).type]?.properties ?? [])]
      }
    },
    'qom-get': ({ path, property }) => propertyValue(layer, find(path), property),
    'qom-set': ({ path, property, value }) => setProperty(layer, find(path), property, value),
    'qom-list-types': ({ implements: wanted }) =>
      Object.entries(classes)
        .filter(([name, { parent }]) =>
          [undefined, 'object', 'user-creatable', name, parent].includes(wanted),
        )
        .map(([name, { parent }]) => ({ name, parent })),
    'qom-list-properties': ({ typename }) => {
      const known = Object.hasOwn(classes, typename) ? classes[typename] : undefined
      if (known === undefined) {
        throw blockError('ENODEV', `Class '${typename}' not found`, { errorClass: 'DeviceNotFound' })
      }
      return [typeProperty, ...known.properties]
    },
  })
}

function noProperty(object: UserObject, property: string) {
  return blockError('ENOENT', `Property '${object.type}.${property}' not found`)
}

/** Members of QAPI's `ThrottleLimits`. */
function limitValues(limits: ThrottleLimits): Record<string, number> {
  const values: Record<string, number> = {}
  for (const name of throttleBuckets) {
    const { average, max, burstLength } = limits.buckets[name]
    values[name] = average
    values[`${name}-max`] = max
    values[`${name}-max-length`] = burstLength
  }
  values['iops-size'] = limits.iopsSize
  return values
}

function propertyValue(layer: BlockLayer, object: UserObject, property: string): JsonValue {
  if (property === 'type') {
    return object.type
  }
  const group = layer.throttleGroups.find(object.id)
  if (object.type === 'throttle-group' && group !== undefined) {
    const values = limitValues(group.limits)
    const value = property === 'limits' ? values : values[property.replace(/^x-/, '')]
    if (value !== undefined) {
      return value
    }
  }
  if (object instanceof Authorization) {
    const value = authorizationValues(object.spec)[property]
    if (value !== undefined) {
      return value
    }
  }
  const ofThread = ioThreadValues(object)?.[property]
  if (ofThread !== undefined) {
    return ofThread
  }
  const known = classes[object.type]?.properties.some(({ name }) => name === property)
  throw known === true
    ? blockError('EPERM', `Property '${object.type}.${property}' is not readable`)
    : noProperty(object, property)
}

function authorizationValues(spec: AuthorizationSpec): Readonly<Record<string, JsonValue>> {
  switch (spec.type) {
    case 'authz-simple':
      return { identity: spec.identity }
    case 'authz-list-file':
      return { filename: spec.filename, refresh: spec.refresh }
    default: {
      const word = (allow: boolean): string => (allow ? 'allow' : 'deny')
      const rules = spec.list.rules.map(({ match, allow, format }) => ({
        ...(format === undefined ? {} : { format }),
        policy: word(allow),
        match,
      }))
      return { policy: word(spec.list.allow), rules }
    }
  }
}

function setProperty(layer: BlockLayer, object: UserObject, property: string, value: JsonValue): void {
  const group = layer.throttleGroups.find(object.id)
  if (object.type === 'throttle-group' && property === 'limits' && group !== undefined) {
    const request = readObject({ 'qom-type': object.type, id: object.id, limits: value })
    if (request.kind === 'throttle-group') {
      // What is not named stays as it is.
      group.limits = throttleLimits({ ...limitValues(group.limits), ...request.throttleGroup.values })
    }
    return
  }
  const known = classes[object.type]?.properties.some(({ name }) => name === property)
  throw known === true || property === 'type'
    ? blockError('EPERM', `Property '${object.type}.${property}' is not writable`)
    : noProperty(object, property)
}
