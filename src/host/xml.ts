import type { Maybe } from '../sched/index.js'

/** An element of an XML document. Names are without prefix: what is read so has one vocabulary in several namespaces. */
export interface XmlElement {
  readonly name: string
  /** By name without prefix. */
  readonly attributes: ReadonlyMap<string, string>
  readonly children: readonly XmlElement[]
  /** All of its own text. */
  readonly text: string
}

export interface HostXml {
  /**
   * The root of a document. Documents with a document type declaration are refused, so nothing expands.
   *
   * @throws BlockError EINVAL if it is not well formed, or nested more than 100 deep
   */
  parse(document: string): Maybe<XmlElement>
}
