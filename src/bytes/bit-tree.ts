/**
 * A set of bit numbers as a tree: leaves of 32,768 bits, 32 children to each level above. A subtree
 * that is all clear is `undefined`, one that is all set is `'full'`; both take no memory.
 *
 * Bit numbers go up to 2^53, so arithmetic on them avoids bit operators.
 */

/** Words of 32 bits in a leaf. */
const leafWords = 1024
const leafBits = leafWords * 32
const fanOut = 32

class Leaf {
  readonly words = new Uint32Array(leafWords)
  /** Bits set. */
  count = 0
}

class Branch {
  readonly children: Entry[] = new Array<Entry>(fanOut).fill(undefined)
  /** Bits set below. */
  count = 0
}

type Entry = Leaf | Branch | 'full' | undefined

export interface Tree {
  root: Leaf | Branch | 'full' | undefined
  /** Levels above the leaves. */
  height: number
}

/** Bits that an entry at `height` stands for. */
export function levelBits(height: number): number {
  return leafBits * fanOut ** height
}

/** Bits set in an entry at `height`. */
function entryCount(entry: Entry, height: number): number {
  return entry === undefined ? 0 : entry === 'full' ? levelBits(height) : entry.count
}

function popCount(word: number): number {
  let value = word - ((word >>> 1) & 0x55555555)
  value = (value & 0x33333333) + ((value >>> 2) & 0x33333333)
  return Math.imul((value + (value >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** Number of the lowest bit set; the word is not 0. */
function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word)
}

/** The bits `[from, to)` of a word; `to` up to 32. */
function wordMask(from: number, to: number): number {
  const upTo = to === 32 ? 0xffffffff : 2 ** to - 1
  return (upTo & ~(2 ** from - 1)) >>> 0
}

/** The entry itself, with a full one spelled out so that parts of it can be cleared. */
function spellOut(entry: Entry, height: number): Leaf | Branch {
  if (entry !== undefined && entry !== 'full') {
    return entry
  }
  const full = entry === 'full'
  if (height === 0) {
    const leaf = new Leaf()
    if (full) {
      leaf.words.fill(0xffffffff)
      leaf.count = leafBits
    }
    return leaf
  }
  const branch = new Branch()
  if (full) {
    branch.children.fill('full')
    branch.count = levelBits(height)
  }
  return branch
}

/** The shortest form of an entry. */
function condense(entry: Leaf | Branch, height: number): Entry {
  return entry.count === 0 ? undefined : entry.count === levelBits(height) ? 'full' : entry
}

function changeLeaf(leaf: Leaf, from: number, to: number, value: boolean): void {
  const { words } = leaf
  for (let at = from; at < to; ) {
    const index = at >>> 5
    const stop = Math.min(to, (index + 1) * 32)
    const mask = wordMask(at & 31, stop - index * 32)
    const old = words[index] as number
    const word = value ? old | mask : old & ~mask
    if (word >>> 0 !== old) {
      words[index] = word
      leaf.count += popCount(word) - popCount(old)
    }
    at = stop
  }
}

/** Sets or clears the bits `[from, to)` of an entry at `height`; numbers count from its start. */
function change(entry: Entry, height: number, from: number, to: number, value: boolean): Entry {
  const whole = value ? 'full' : undefined
  if (entry === whole || (from === 0 && to === levelBits(height))) {
    return whole
  }
  const open = spellOut(entry, height)
  if (open instanceof Leaf) {
    changeLeaf(open, from, to, value)
    return condense(open, height)
  }
  const span = levelBits(height - 1)
  for (let at = from; at < to; ) {
    const index = Math.floor(at / span)
    const start = index * span
    const stop = Math.min(to, start + span)
    const before = entryCount(open.children[index], height - 1)
    const child = change(open.children[index], height - 1, at - start, stop - start, value)
    open.children[index] = child
    open.count += entryCount(child, height - 1) - before
    at = stop
  }
  return condense(open, height)
}

/** Bits set in the whole tree. */
export function countBits({ root, height }: Tree): number {
  return entryCount(root, height)
}

/** Sets the bits `[from, to)`, which the tree's height allows for. */
export function setBits(tree: Tree, from: number, to: number): void {
  tree.root = change(tree.root, tree.height, from, to, true)
}

/** Clears the bits `[from, to)`, which the tree's height allows for. */
export function clearBits(tree: Tree, from: number, to: number): void {
  tree.root = change(tree.root, tree.height, from, to, false)
}

/** Changes the number of levels. When it gets smaller, no bit above may be set. */
export function setHeight(tree: Tree, height: number): void {
  for (; tree.height < height; tree.height++) {
    if (tree.root !== undefined) {
      const branch = new Branch()
      branch.children[0] = tree.root
      branch.count = entryCount(tree.root, tree.height)
      tree.root = branch
    }
  }
  for (; tree.height > height; tree.height--) {
    if (tree.root instanceof Branch) {
      tree.root = tree.root.children[0]
    }
  }
}

function findInLeaf({ words }: Leaf, from: number, to: number, value: boolean): number {
  for (let at = from; at < to; ) {
    const index = at >>> 5
    const start = index * 32
    const stop = Math.min(to, start + 32)
    const word = words[index] as number
    const hits = (value ? word : ~word) & wordMask(at & 31, stop - start)
    if (hits !== 0) {
      return start + lowestBit(hits)
    }
    at = stop
  }
  return -1
}

function find(entry: Entry, height: number, from: number, to: number, value: boolean): number {
  if (entry === undefined || entry === 'full') {
    return (entry === 'full') === value ? from : -1
  }
  if (entry instanceof Leaf) {
    return findInLeaf(entry, from, to, value)
  }
  const span = levelBits(height - 1)
  for (let at = from; at < to; ) {
    const index = Math.floor(at / span)
    const start = index * span
    const stop = Math.min(to, start + span)
    const found = find(entry.children[index], height - 1, at - start, stop - start, value)
    if (found >= 0) {
      return start + found
    }
    at = stop
  }
  return -1
}

/** The first bit in `[from, to)`, not empty, that is set or clear as `value` says; -1 if there is none. */
export function findBit(tree: Tree, from: number, to: number, value: boolean): number {
  return find(tree.root, tree.height, from, to, value)
}

/** The 32 bits from `bit` on, a multiple of 32; zero past the tree's end. */
export function readWord(tree: Tree, bit: number): number {
  let entry = tree.root
  let at = bit
  if (at >= levelBits(tree.height)) {
    return 0
  }
  for (let height = tree.height; entry instanceof Branch; height--) {
    const span = levelBits(height - 1)
    const index = Math.floor(at / span)
    entry = entry.children[index]
    at -= index * span
  }
  return entry === undefined ? 0 : entry === 'full' ? 0xffffffff : ((entry as Leaf).words[at >>> 5] as number)
}

function replaceWord(entry: Entry, height: number, bit: number, word: number): Entry {
  if ((entry === undefined && word === 0) || (entry === 'full' && word === 0xffffffff)) {
    return entry
  }
  const open = spellOut(entry, height)
  if (open instanceof Leaf) {
    const index = bit >>> 5
    open.count += popCount(word) - popCount(open.words[index] as number)
    open.words[index] = word
    return condense(open, height)
  }
  const span = levelBits(height - 1)
  const index = Math.floor(bit / span)
  const before = entryCount(open.children[index], height - 1)
  const child = replaceWord(open.children[index], height - 1, bit - index * span, word)
  open.children[index] = child
  open.count += entryCount(child, height - 1) - before
  return condense(open, height)
}

/** Replaces the 32 bits from `bit` on, a multiple of 32. */
export function writeWord(tree: Tree, bit: number, word: number): void {
  tree.root = replaceWord(tree.root, tree.height, bit, word >>> 0)
}

function cloneEntry(entry: Entry): Entry {
  if (entry instanceof Leaf) {
    const leaf = new Leaf()
    leaf.words.set(entry.words)
    leaf.count = entry.count
    return leaf
  }
  if (entry instanceof Branch) {
    const branch = new Branch()
    entry.children.forEach((child, index) => {
      branch.children[index] = cloneEntry(child)
    })
    branch.count = entry.count
    return branch
  }
  return entry
}

export function cloneTree({ root, height }: Tree): Tree {
  return { root: cloneEntry(root), height }
}

function merge(into: Entry, from: Entry, height: number): Entry {
  if (into === 'full' || from === undefined) {
    return into
  }
  if (into === undefined || from === 'full') {
    return cloneEntry(from)
  }
  if (into instanceof Leaf && from instanceof Leaf) {
    for (let index = 0; index < leafWords; index++) {
      const old = into.words[index] as number
      const word = (old | (from.words[index] as number)) >>> 0
      into.words[index] = word
      into.count += popCount(word) - popCount(old)
    }
    return condense(into, height)
  }
  const branch = into as Branch
  branch.count = 0
  for (let index = 0; index < fanOut; index++) {
    const child = merge(branch.children[index], (from as Branch).children[index], height - 1)
    branch.children[index] = child
    branch.count += entryCount(child, height - 1)
  }
  return condense(branch, height)
}

/** Sets in `into` what is set in `from`, a tree of the same height, which stays as it is. */
export function mergeTrees(into: Tree, from: Tree): void {
  into.root = merge(into.root, from.root, into.height)
}
