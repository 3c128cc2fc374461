import { jsonPretty } from '../../../bytes/index.js'
import { createOva, listOva, verifyOva } from '../../../image/index.js'
import { ProgressMeter, type ProgressStyle } from '../../progress.js'
import { progressStyle } from '../progress-option.js'
import { type ImgCommand, type ImgTool, valued } from '../tool.js'

interface Settings {
  json: boolean
  quiet: boolean
  style: ProgressStyle
  format: string | undefined
  name: string | undefined
  processors: number | undefined
  memory: number | undefined
}

/** `ova create|list|verify`: packages of virtual machines. Not in `qemu-img`. */
export const ova: ImgCommand = {
  async run(argv: readonly string[], tool: ImgTool) {
    const settings: Settings = {
      json: false,
      quiet: false,
      style: 'none',
      format: undefined,
      name: undefined,
      processors: undefined,
      memory: undefined,
    }
    const [action, ...operands] = await tool.readOptions(argv, {
      short: ':hf:pq',
      long: ['object', 'output', 'progress', 'name', 'cpus', 'memory'].map((name) => valued(name)),
      option: ({ option, argument }) => {
        switch (option) {
          case 'f':
            settings.format = argument
            break
          case 'p':
            settings.style = 'people'
            break
          case 'progress':
            settings.style = progressStyle(tool, argument)
            break
          case 'q':
            settings.quiet = true
            break
          case 'output':
            settings.json = tool.isJson(argument)
            break
          case 'name':
            settings.name = argument
            break
          case 'cpus':
            settings.processors = tool.size('number of processors', argument, 1n, 1024n)
            break
          case 'memory':
            settings.memory = tool.size('size of memory', argument, 1n << 20n, 1n << 50n)
            break
        }
      },
    })
    const [filename, ...disks] = operands
    if (filename === undefined || (action === 'create' ? disks.length === 0 : disks.length > 0)) {
      tool.fail('Expecting create PACKAGE DISK..., list PACKAGE or verify PACKAGE')
    }
    const meter = new ProgressMeter(tool.context, {
      style: settings.quiet ? 'none' : settings.style,
      step: 1,
    })
    try {
      switch (action) {
        case 'create':
          return await make(tool, filename, disks, settings, meter)
        case 'list':
          return await list(tool, filename, settings)
        case 'verify':
          return await verify(tool, filename, settings, meter)
        default:
          tool.fail(`Unknown action '${action ?? ''}'; there are create, list and verify`)
      }
    } catch (error) {
      tool.report(error)
      return 1
    } finally {
      meter.end()
    }
  },
}

async function make(
  tool: ImgTool,
  target: string,
  disks: readonly string[],
  { quiet, json, format, name, processors, memory }: Settings,
  meter: ProgressMeter,
): Promise<number> {
  meter.start()
  const result = await createOva(await tool.layer(), {
    target,
    disks: disks.map((disk) => tool.imageSpec(disk, { format })),
    name,
    processors,
    memory,
    signal: tool.context.signal,
    progress: meter.update,
  })
  meter.finish()
  if (json) {
    tool.print(jsonPretty({ disks: result.disks.map((disk) => ({ ...disk })) }))
  } else if (!quiet) {
    for (const disk of result.disks) {
      tool.print(`${disk.name}: disk of ${disk.size} bytes, ${disk.fileBytes} bytes in the package`)
    }
  }
  return 0
}

async function list(tool: ImgTool, filename: string, { json }: Settings): Promise<number> {
  const { descriptor, disks, hasManifest } = await listOva(await tool.layer(), filename)
  if (json) {
    const listed = disks.map(({ name, id, size, fileBytes, format }) => ({
      name,
      id,
      ...(size === undefined ? {} : { 'virtual-size': size }),
      'file-size': fileBytes,
      ...(format === undefined ? {} : { format }),
    }))
    tool.print(jsonPretty({ descriptor, manifest: hasManifest, disks: listed }))
    return 0
  }
  tool.print(`descriptor: ${descriptor}`)
  tool.print(`manifest: ${hasManifest ? 'yes' : 'no'}`)
  for (const { name, id, size, fileBytes } of disks) {
    const length = size === undefined ? '' : `, disk of ${size} bytes`
    tool.print(`disk: ${name} (${id}${length}, ${fileBytes} bytes in the package)`)
  }
  return 0
}

async function verify(
  tool: ImgTool,
  filename: string,
  { quiet, json }: Settings,
  meter: ProgressMeter,
): Promise<number> {
  meter.start()
  const files = await verifyOva(await tool.layer(), filename, {
    signal: tool.context.signal,
    progress: meter.update,
  })
  meter.finish()
  if (json) {
    tool.print(jsonPretty({ files: files.map((file) => ({ ...file })) }))
  } else if (!quiet) {
    for (const { name, result } of files) {
      tool.print(`${name}: ${result === 'unlisted' ? 'not in the manifest' : result}`)
    }
  }
  return files.some(({ result }) => result === 'differs' || result === 'missing') ? 2 : 0
}
