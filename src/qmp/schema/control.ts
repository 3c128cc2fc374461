import { defineTypes } from './define.js'

/** The monitor itself: versions, introspection. Names and members are QAPI's. */
export const controlTypes = defineTypes({
  MonitorMode: { enum: ['readline', 'control'] },
  MonitorOptions: {
    struct: { '*id': 'str', '*mode': 'MonitorMode', '*pretty': 'bool', chardev: 'str' },
  },
  VersionInfo: { struct: { qemu: 'VersionTriple', package: 'str' } },
  CommandInfo: { struct: { name: 'str' } },
  SchemaInfo: {
    union: { name: 'str', 'meta-type': 'SchemaMetaType', '*features': '[str]' },
    tag: 'meta-type',
    branches: {
      builtin: 'SchemaInfoBuiltin',
      enum: 'SchemaInfoEnum',
      array: 'SchemaInfoArray',
      object: 'SchemaInfoObject',
      alternate: 'SchemaInfoAlternate',
      command: 'SchemaInfoCommand',
      event: 'SchemaInfoEvent',
    },
  },
  QMPCapability: { enum: ['oob'] },
  VersionTriple: { struct: { major: 'int', minor: 'int', micro: 'int' } },
  SchemaMetaType: { enum: ['builtin', 'enum', 'array', 'object', 'alternate', 'command', 'event'] },
  SchemaInfoBuiltin: { struct: { 'json-type': 'JSONType' } },
  SchemaInfoEnum: {
    struct: { members: '[SchemaInfoEnumMember]', values: { type: '[str]', features: ['deprecated'] } },
  },
  SchemaInfoArray: { struct: { 'element-type': 'str' } },
  SchemaInfoObject: {
    struct: { members: '[SchemaInfoObjectMember]', '*tag': 'str', '*variants': '[SchemaInfoObjectVariant]' },
  },
  SchemaInfoAlternate: { struct: { members: '[SchemaInfoAlternateMember]' } },
  SchemaInfoCommand: { struct: { 'arg-type': 'str', 'ret-type': 'str', '*allow-oob': 'bool' } },
  SchemaInfoEvent: { struct: { 'arg-type': 'str' } },
  JSONType: { enum: ['string', 'number', 'int', 'boolean', 'null', 'object', 'array', 'value'] },
  SchemaInfoEnumMember: { struct: { name: 'str', '*features': '[str]' } },
  SchemaInfoObjectMember: { struct: { name: 'str', type: 'str', '*default': 'any', '*features': '[str]' } },
  SchemaInfoObjectVariant: { struct: { case: 'str', type: 'str' } },
  SchemaInfoAlternateMember: { struct: { type: 'str' } },
})
