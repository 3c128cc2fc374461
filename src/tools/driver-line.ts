/**
 * What a tool prints of a line that a driver has for the user: warnings and errors get the program's
 * name, other lines stay as they are.
 */
export function driverLine(program: string, line: string): string {
  const error = 'error: '
  if (line.startsWith(error)) {
    return `${program}: ${line.slice(error.length)}\n`
  }
  return line.startsWith('warning: ') ? `${program}: ${line}\n` : `${line}\n`
}
