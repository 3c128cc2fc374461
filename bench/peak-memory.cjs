// Loaded before a program: says at its end how much memory it has had at most.
process.on('exit', () => {
  require('node:fs').writeSync(2, `peak ${process.resourceUsage().maxRSS} KiB\n`)
})
