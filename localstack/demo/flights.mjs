// Writes the parquet file argv[2] as lines of CSV to argv[3], one group of rows in memory at a time.
// It runs in the folder whose node_modules hold hyparquet.
import { createWriteStream } from 'node:fs'
import { once } from 'node:events'
import { pathToFileURL } from 'node:url'
import { resolve } from 'node:path'

const load = name => import(pathToFileURL(resolve('node_modules', name)))
const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } = await load('hyparquet/src/node.js')
const { compressors } = await load('hyparquet-compressors/src/index.js')

const file = await asyncBufferFromFile(process.argv[2])
const metadata = await parquetMetadataAsync(file)
const out = createWriteStream(process.argv[3])
let rowStart = 0
for (const group of metadata.row_groups) {
  const rowEnd = rowStart + Number(group.num_rows)
  const rows = await parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors })
  let text = ''
  for (const r of rows) text += `${r.date.toISOString()},${r.delay},${r.distance},${r.origin},${r.destination}\n`
  if (!out.write(text)) await once(out, 'drain')
  rowStart = rowEnd
}
out.end()
await once(out, 'finish')
