import { sizeText } from '../../bytes/index.js'
import type { ImageSnapshotInfo } from '../../image/index.js'

const header =
  'ID'.padEnd(10) +
  'TAG'.padEnd(17) +
  'VM SIZE'.padStart(8) +
  'DATE'.padStart(20) +
  'VM CLOCK'.padStart(13) +
  'ICOUNT'.padStart(11)

function line(snapshot: ImageSnapshotInfo): string {
  const two = (value: number) => String(value).padStart(2, '0')
  const date = new Date(snapshot['date-sec'] * 1000)
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  const seconds = snapshot['vm-clock-sec']
  const milliseconds = String(Math.floor(snapshot['vm-clock-nsec'] / 1e6)).padStart(3, '0')
  const clock =
    `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}` +
    `.${milliseconds}`
  return (
    `${snapshot.id.padEnd(9)} ${snapshot.name.padEnd(16)} ` +
    sizeText(snapshot['vm-state-size']).padStart(8) +
    `${day} ${time}`.padStart(20) +
    clock.padStart(13) +
    (snapshot.icount === undefined ? '' : String(snapshot.icount)).padStart(11)
  )
}

/** Snapshots as `qemu-img info` and `qemu-img snapshot -l` print them: a head line, then one line each. */
export function snapshotTable(snapshots: readonly ImageSnapshotInfo[]): string[] {
  return [header, ...snapshots.map(line)]
}
