// Loaded before a program: says at its end how much memory it has had at most. Not from getrusage, which
// counts the memory of the process that started this one.
process.on('exit', () => {
  const fs = require('node:fs')
  const [, peak] = /VmHWM:\s*(\d+) kB/.exec(fs.readFileSync('/proc/self/status', 'utf8'))
  fs.writeSync(2, `peak ${peak} KiB\n`)
})
