/** Nested data, one value a line, four blanks a level; blanks stand for dashes in names. */
export function treeLines(tree: unknown, level: number): string[] {
  const members: [string, unknown][] = Array.isArray(tree)
    ? tree.map((member, index) => [`[${index}]`, member])
    : Object.entries(tree as object).map(([key, member]) => [key.replaceAll('-', ' '), member])
  return members.flatMap(([name, member]) => {
    if (member === undefined) {
      return []
    }
    const label = `${'    '.repeat(level)}${name}:`
    return typeof member === 'object' && member !== null
      ? [label, ...treeLines(member, level + 1)]
      : [`${label} ${String(member)}`]
  })
}
