import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { SshPlace } from '../../../host/index.js'
import { entriesFor, judge, type KnownHost, parseKnownHosts } from './known-hosts.js'

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** Name of the key's type, which is the first string in it. */
function typeOf(key: Buffer): string {
  const length = key.length >= 4 ? key.readUInt32BE(0) : 0
  return key.subarray(4, 4 + Math.min(length, 64)).toString('latin1')
}

/** Checks the key of one server; {@link failure} says why it is not accepted. */
export class HostKeyChecker {
  readonly #place: SshPlace
  readonly #entries: readonly KnownHost[] | undefined
  failure: string | undefined

  constructor(place: SshPlace) {
    this.#place = place
    if (place.hostKey.mode !== 'known_hosts') {
      return
    }
    const files = [join(homedir(), '.ssh', 'known_hosts'), '/etc/ssh/ssh_known_hosts'].map(readIfThere)
    const texts = files.filter((text) => text !== undefined)
    this.#entries = entriesFor(texts.flatMap(parseKnownHosts), place.host, place.port)
  }

  /** Types of the keys that are known of this server, to ask for one of those. */
  get knownTypes(): string[] {
    return [...new Set((this.#entries ?? []).map(({ type }) => type))]
  }

  accept(key: Buffer): boolean {
    this.failure = this.#objection(key)
    return this.failure === undefined
  }

  #objection(key: Buffer): string | undefined {
    const { hostKey } = this.#place
    const type = typeOf(key)
    if (hostKey.mode === 'none') {
      return undefined
    }
    if (hostKey.mode === 'hash') {
      const found = createHash(hostKey.type).update(key).digest('hex')
      if (hostKey.hash.replaceAll(':', '').toLowerCase() === found) {
        return undefined
      }
      const wanted = `${hostKey.type}:${hostKey.hash}`
      const print = `${hostKey.type}:${found}`
      return `remote host ${type} key fingerprint '${print}' does not match host_key_check '${wanted}'`
    }
    switch (judge(this.#entries ?? [], type, key.toString('base64'))) {
      case 'ok':
        return undefined
      case 'changed': {
        const print = `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`
        const what = `host key (${type} key with fingerprint ${print})`
        return `${what} does not match the one in known_hosts; this may be a possible attack`
      }
      case 'other':
        return 'host key for this server not found, another type exists'
      case 'unknown':
        return 'no host key was found in known_hosts'
    }
  }
}
