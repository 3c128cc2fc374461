import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Outcome, ours, theirs } from './qemu-io.js'

/** Command lines of the tool beside those of qemu-io: same output, exit code and image. */
const commands = `
read 1 1|read -v 0 20|read -v 500 40|read -C 0 512|read -q 0 512|read -p 0 512|read -a 0 512|r 0 1k|read 0 64k
read foo 1|read 1 foo|read 1 -1|read 0|read|read -l 1 0 512|read -P 1 -l x 0 512|read -P 1 -s x 0 512|read 0 0
read -P 1 -l 600 0 512|read -P 1 0 512|read -P 0 0 512|read -P 0 -s 512 -l 100 0 1k|read 2M 512|read 0 2G|read 1M 0
read 0 2147483136|read -x 0 512|read -P|read -b 0 512|read -b 1 512|read -b 0 100|read 16E 1|read 8E 1|read 1.5k 512
read -P 0xcd 0 512 1|read -Pq 0 512|read -vC 0 32|read 0x200 0x10|read -P 256 0 512|read -P -1 0 512|read 0 1.3
readv 0|readv 0 x|readv 0 3G|readv 0 2147483647|readv 1 512|readv 0 100|readv -v 0 16 16|readv -P 1 0 512 512|readv -C 0 512
readv 1M 512|readv -x 0 1|readv 0 2G 2G|readv 0 1073741824 1073741824|readv -q 0 512|readv -P 0 0 4k 4k 4k
write 0 512|write -P 300 0 512|write -P 7 0 64k|write -z 0 64k|write -z -P 1 0 512|write -n 0 512|write -u 0 512
write -zu 0 64k|write -zn 0 64k|write -zun 0 64k|write -zc 0 512|write -bz 0 512|write -bf 0 512|write -cf 0 512|write -f 0 512
write -s x -P 1 0 512|write -s gone 0 512|write -s pat 0 1k|write -s empty 0 512|write -zs x 0 512|write -c 1 512|write -c 0 100
write -c 0 64k|write -b 0 100|write -b 100 512|write -b 0 512|write -C 0 512|write -q 0 512|write 1M 512|write 3 5|write 0
write -P 0x1g 0 512|write -P 010 0 512|write 0 2G|w 0 1|write 0 0|write -z 1M 512|write -y 0 1
writev 0 512 512|writev -f 0 512|writev -P 9 0 1k|writev 0 x|writev 1M 512|writev -q 0 512|writev -C 0 512|writev -z 0 1|writev 0
discard 0 1M|discard 1 1|discard 0 3M|discard 0 x|discard x 0|discard -C 0 512|discard -q 0 64k|discard 0 2G|discard -x 0 1|d 0 64k|discard 0
aio_read 0 x|aio_read 1 512|aio_read -i 0 512|aio_read -P 1 0 512|aio_read -v 0 16|aio_read -C 0 512|aio_read -q 0 1|aio_read 2M 512|aio_read 0
aio_write -i 0 512|aio_write 0 512|aio_write -P 3 0 512|aio_write -z 0 512|aio_write -z 0 512 512|aio_write -zP 1 0 512|aio_write -u 0 512
aio_write -zi 0 512|aio_write 2M 512|aio_write -x 0 1|aio_write -f 0 512|aio_write -q 0 512|aio_flush|aio_flush 1
map|map 1|alloc 0|alloc 0 1M|alloc 0 2M|alloc x|alloc 100 x|a 64k 64k|alloc 0 1 2|alloc|length|l|length 1|info|i|flush|f
truncate x|truncate 2M|truncate -m foo 1M|truncate|truncate 1M 2M|truncate -x 1M|truncate -m off 4M|t 512k|truncate -m metadata 3M
foo|?x|sleep x|sleep 1|sleep -1|sleep|sigraise x|sigraise 0|sigraise|help foo|help a b|q|quit 1 2|close|c
break a b|break read_aio b|remove_break a|resume a|break a|wait_break|open|open -x|open a b|open nosuch|open -t x a|open -d x a|open -i x a
reopen -r|reopen -w|reopen -rw|reopen -r -o read-only=on|reopen -c x|reopen -c none -o cache.direct=off|reopen x|reopen -o foo=1|reopen -c writeback
truncate 2880k;length|truncate 2881k;length|truncate 3200;length|truncate 1056;length|close;open -f raw null-co://;info|close;open driver=null-co;info
close;read 0 512|close;open -r a.qcow2;length|close;open -o driver=raw a.qcow2;info|close;open -n a.qcow2;length|close;o -U -o force-share=off a.qcow2
write -P 1 0 64k;read -P 1 0 64k;read -P 2 0 64k;map;alloc 0 1M|write -P 5 1000 3000;read -v 990 20;read -P 5 1000 3000
aio_write -P 4 0 64k;aio_read -P 4 128k 512;aio_flush;read -P 4 0 64k;length|reopen -r;write 0 512;reopen -w;write 0 512|foo;length;bar
write -b -P 8 0 512;read -b -P 8 0 512|write -c -P 6 0 64k;read -P 6 0 64k;map|write 0 1M;discard 0 64k;map;write -z 64k 64k;map
`
  .trim()
  .split(/[|\n]/)

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'blockgraph-io-'))
  const created = spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(folder, 'empty.qcow2'), '1M'])
  expect(created.status).toBe(0)
})

afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function contents(path: string): string {
  const raw = `${path}.raw`
  const converted = spawnSync('qemu-img', ['convert', '-O', 'raw', path, raw], { encoding: 'utf8' })
  return `${converted.status} ${spawnSync('sha256sum', [raw], { encoding: 'utf8' }).stdout.slice(0, 64)}`
}

/** What a tool does with a fresh image in a folder of its own, and what the image holds then. */
async function outcomeOf(
  tool: (argv: readonly string[], folder: string) => Outcome | Promise<Outcome>,
  name: string,
  argv: readonly string[],
): Promise<Outcome & { contents: string }> {
  const here = join(folder, name)
  mkdirSync(here)
  copyFileSync(join(folder, 'empty.qcow2'), join(here, 'a.qcow2'))
  writeFileSync(join(here, 'pat'), 'abc')
  writeFileSync(join(here, 'empty'), '')
  return { ...(await tool(argv, here)), contents: contents(join(here, 'a.qcow2')) }
}

test.each(commands.map((line, index) => [line, index] as const))('%s', async (line, index) => {
  const argv = [...line.split(';').flatMap((one) => ['-c', one]), 'a.qcow2']
  const expected = await outcomeOf(theirs, `${index}-theirs`, argv)
  expect(await outcomeOf(ours, `${index}-ours`, argv)).toEqual(expected)
})
