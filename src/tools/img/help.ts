import { packageVersion, qemuVersion } from '../version.js'

/** What each command takes; the commands that exist, in the order of `--help`. */
const usages: Readonly<Record<string, string>> = {
  bench:
    '[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] ' +
    '[-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename',
  bitmap:
    '(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... ' +
    '[-b source_file [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts | -f fmt] ' +
    'filename bitmap',
  check:
    '[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] ' +
    '[-T src_cache] [-U] filename',
  commit:
    '[--object objectdef] [--image-opts] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] ' +
    '[-p | --progress=json] [-q] filename',
  compact:
    '[--object objectdef] [--image-opts] [-f fmt] [-c] [--output=ofmt] [-p | --progress=json] [-q] ' +
    'filename [output_filename]',
  compare:
    '[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p | --progress=json] ' +
    '[-q] [-s] [-U] filename1 filename2',
  convert:
    '[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] ' +
    '[--bitmaps [--skip-broken-bitmaps]] [-U] [-C] [-c] ' +
    '[-p | --progress=json] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] ' +
    '[-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] ' +
    '[-r rate_limit] [-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] output_filename',
  create:
    '[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]',
  dd:
    '[--image-opts] [-U] [-f fmt] [-O output_fmt] [--progress=json] [bs=block_size] [count=blocks] ' +
    '[skip=blocks] if=input of=output',
  info: '[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename',
  map:
    '[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] ' +
    '[--output=ofmt] [-U] filename',
  measure:
    '[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] ' +
    '[-f fmt] [-l snapshot_param] filename]',
  ova:
    '(create [--name=name] [--cpus=count] [--memory=size] [-f fmt] package disk... | list package | verify package) ' +
    '[--object objectdef] [--output=ofmt] [-p | --progress=json] [-q]',
  rebase:
    '[--object objectdef] [--image-opts] [-f fmt] [-t cache] [-T src_cache] [-p | --progress=json] [-q] ' +
    '[-u] [-c] -b backing_file [-F backing_fmt] [-U] filename',
  resize:
    '[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] ' +
    'filename [+ | -]size',
}

/** The first lines of `--version` and `--help`. */
export function versionText(program: string): string {
  // Scripts read the release of qemu-img from the first line.
  return program === 'qemu-img'
    ? `qemu-img version ${qemuVersion} (blockgraph ${packageVersion})\n`
    : `${program} version ${packageVersion} (qemu-img ${qemuVersion})\n`
}

/** The text of `--help`. */
export function helpText(program: string, formats: readonly string[]): string {
  const commands = Object.entries(usages).map(([name, usage]) => `  ${name} ${usage}`)
  return `${versionText(program)}usage: ${program} [standard options] command [command options]
Virtual disk images: the block layer of QEMU in TypeScript

    '-h', '--help'       display this help and exit
    '-V', '--version'    output version information and exit
    '-T', '--trace'      accepted and ignored: there is nothing to trace
    '--debug'            show stack traces with errors

Command syntax:
${commands.join('\n')}

Command parameters:
  'filename' is a disk image; '-' is standard input or output of convert
  'objectdef' defines an object, such as a 'secret' that holds a password
  'fmt' is the disk image format; without it the format is guessed
  'cache' is how the written image is cached: 'none', 'writeback' (default, except for
    convert), 'writethrough', 'directsync' or 'unsafe' (default for convert)
  'src_cache' is the same for images that are read
  'size' is a number of bytes, or with a suffix: 'k' or 'K' (1024), 'M' (1024k),
    'G' (1024M), 'T' (1024G), 'P' (1024T), 'E' (1024P); 'b' means bytes
  'output_filename' is the image to write, 'output_fmt' its format
  'options' is a list of name=value, separated by commas; '-o help' lists what the
    format knows
  'snapshot_param' names an internal snapshot: 'snapshot.id=[ID],snapshot.name=[NAME]',
    or '[ID_OR_NAME]'
  '-c' compresses the written image
  '-u' does not open the backing file
  '-h' shows this help, with or without a command
  '-p' shows progress: a bar on a terminal, percentages elsewhere
  '--progress=json' shows progress as one JSON object a line
  '-q' is quiet: only errors are printed
  '-S' is how many bytes in a row (default 4k) must be zero to become a hole; with 0
    nothing is looked for and the target is fully allocated
  '--output' is how results are printed: 'human' or 'json'
  '-n' writes into an image that exists
  '-U' reads an image that others may be writing

Parameters to bitmap subcommand:
  'bitmap' is the name of the bitmap that the actions change, in their order
  '-g granularity' is how many bytes a bit of a bitmap stands for that '--add' makes
  '-b source_file' and '-F source_fmt' are where '--merge' finds its bitmap, if not in the
    image itself

Parameters to check subcommand:
  '-r leaks' repairs clusters that are lost, '-r all' everything, with the risk of a
    wrong guess

Parameters to commit subcommand:
  '-b' is the image in the backing chain to write into (default: the next one); the
    image is not emptied then
  '-d' leaves the image as it is instead of emptying it
  '-r' is how many bytes are moved in a second

Parameters to convert subcommand:
  '--bitmaps' copies the persistent dirty bitmaps of the source
  '--skip-broken-bitmaps' leaves out those that are inconsistent
  '-m' is how many requests are in flight (default 8)
  '-W' writes them in any order
  '-C' has the kernel copy where it can
  '--salvage' reads unreadable sectors as zeroes

Parameters to rebase subcommand:
  '-b' is the new backing file, '-F' its format; '-b ""' leaves the image without one
  '-u' changes the name alone, without looking at what the backing files hold
  '-c' compresses what is copied

Parameters to compare subcommand:
  '-f' and '-F' are the formats of the first and the second image
  '-s' is strict: sizes and allocation must be equal too

Parameters to dd subcommand:
  'bs=BYTES' is the size of a block (default 512)
  'count=N' stops after N blocks of the input
  'skip=N' leaves out the first N blocks of the input
  'if=FILE' is the input, 'of=FILE' the output

Supported formats: ${formats.join(' ')}

See <https://www.npmjs.com/package/blockgraph> for more.
`
}
