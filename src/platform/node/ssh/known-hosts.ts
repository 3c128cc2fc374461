import { createHmac } from 'node:crypto'

/** One line of a `known_hosts` file. */
export interface KnownHost {
  readonly marker: string | undefined
  readonly hosts: string
  readonly type: string
  /** The public key as it is sent, base64. */
  readonly key: string
}

/** What `known_hosts` says of a server. */
export type Knowledge = 'ok' | 'changed' | 'other' | 'unknown'

export function parseKnownHosts(text: string): KnownHost[] {
  const entries: KnownHost[] = []
  for (const line of text.split(/\r?\n/)) {
    const match = /^\s*(?:(@\S+)\s+)?([^\s#]\S*)\s+([\w@.-]+)\s+([A-Za-z0-9+/=]+)/.exec(line)
    if (match !== null) {
      const [, marker, hosts = '', type = '', key = ''] = match
      entries.push({ marker, hosts, type, key })
    }
  }
  return entries
}

/** The name under which a server stands in the file: `host`, or `[host]:port` for other ports than 22. */
function entryName(host: string, port: number): string {
  const name = host.toLowerCase()
  return port === 22 ? name : `[${name}]:${port}`
}

function matchesHashed(pattern: string, name: string): boolean {
  const [, , salt = '', hash = ''] = pattern.split('|')
  return createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest('base64') === hash
}

function matchesPattern(pattern: string, name: string): boolean {
  // One star at a time: a pattern of many must not take exponential time.
  let at = 0
  let start = 0
  let star = -1
  let retry = 0
  while (start < name.length) {
    const wanted = pattern[at]
    if (wanted === '*') {
      star = at++
      retry = start
    } else if (wanted !== undefined && (wanted === '?' || wanted === name[start])) {
      at++
      start++
    } else if (star >= 0) {
      at = star + 1
      start = ++retry
    } else {
      return false
    }
  }
  while (pattern[at] === '*') {
    at++
  }
  return at === pattern.length
}

function matches({ hosts }: KnownHost, name: string): boolean {
  if (hosts.startsWith('|1|')) {
    return matchesHashed(hosts, name)
  }
  let found = false
  for (const pattern of hosts.toLowerCase().split(',')) {
    if (pattern.startsWith('!')) {
      if (matchesPattern(pattern.slice(1), name)) {
        return false
      }
    } else {
      found ||= matchesPattern(pattern, name)
    }
  }
  return found
}

/** The entries for a server that stand for one key each. */
export function entriesFor(entries: readonly KnownHost[], host: string, port: number): KnownHost[] {
  const name = entryName(host, port)
  return entries.filter((entry) => entry.marker !== '@cert-authority' && matches(entry, name))
}

/** Compares a server's key with the entries for it. A key that was revoked counts as changed. */
export function judge(entries: readonly KnownHost[], type: string, key: string): Knowledge {
  if (entries.some((entry) => entry.marker === '@revoked' && entry.key === key)) {
    return 'changed'
  }
  const valid = entries.filter((entry) => entry.marker === undefined)
  if (valid.some((entry) => entry.key === key)) {
    return 'ok'
  }
  if (valid.some((entry) => entry.type === type)) {
    return 'changed'
  }
  return valid.length > 0 ? 'other' : 'unknown'
}
