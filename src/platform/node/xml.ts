import { SaxesParser } from 'saxes'
import { blockError } from '../../errors/index.js'
import type { HostXml, XmlElement } from '../../host/index.js'

const maxDepth = 100

interface OpenElement {
  readonly name: string
  readonly attributes: Map<string, string>
  readonly children: XmlElement[]
  text: string
}

/** XML by saxes, which expands nothing but the five entities of XML itself. */
export const nodeXml = {
  parse(document: string): XmlElement {
    const parser = new SaxesParser({ xmlns: true })
    const open: OpenElement[] = []
    let root: XmlElement | undefined
    const invalid = (what: string): never => {
      throw blockError('EINVAL', `XML document is not well formed: ${what}`)
    }
    parser.on('error', (error) => invalid(error.message))
    parser.on('doctype', () => invalid('it has a document type declaration'))
    parser.on('opentag', ({ local, attributes }) => {
      if (open.length >= maxDepth) {
        invalid('it is nested too deep')
      }
      const values = new Map(Object.values(attributes).map((attribute) => [attribute.local, attribute.value]))
      open.push({ name: local, attributes: values, children: [], text: '' })
    })
    parser.on('text', (text) => {
      const top = open.at(-1)
      if (top !== undefined) {
        top.text += text
      }
    })
    parser.on('closetag', () => {
      const element = open.pop()
      const above = open.at(-1)
      if (above === undefined) {
        root = element
      } else if (element !== undefined) {
        above.children.push(element)
      }
    })
    parser.write(document).close()
    return root ?? invalid('it has no element')
  },
} satisfies HostXml
