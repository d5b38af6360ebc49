// kafkajs behind the suite's contract: see localstack/e2e/contract. kafkajs brings gzip only; the other codecs are set here.
'use strict'

const readline = require('node:readline')
const { randomUUID } = require('node:crypto')
const { once } = require('node:events')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const snappy = require('snappyjs')
const lz4 = require('lz4-napi')
const zstd = require('@bokuweb/zstd-wasm')

// Java clients frame snappy the way xerial does: a header, then length-prefixed blocks.
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])
const XERIAL_HEADER = 16

function uncompressSnappy (buffer) {
  if (!buffer.subarray(0, XERIAL.length).equals(XERIAL)) return Buffer.from(snappy.uncompress(buffer))
  const blocks = []
  for (let at = XERIAL_HEADER; at < buffer.length;) {
    const size = buffer.readUInt32BE(at)
    blocks.push(Buffer.from(snappy.uncompress(buffer.subarray(at + 4, at + 4 + size))))
    at += 4 + size
  }
  return Buffer.concat(blocks)
}

CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async e => Buffer.from(snappy.compress(e.buffer)),
  decompress: async b => uncompressSnappy(b)
})
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: e => lz4.compressFrame(e.buffer),
  decompress: b => lz4.decompressFrame(b)
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async e => Buffer.from(zstd.compress(e.buffer, 3)),
  decompress: async b => Buffer.from(zstd.decompress(b))
})

const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD
}

const emit = event => process.stdout.write(JSON.stringify(event) + '\n')
const encode = b => b === null || b === undefined ? null : Buffer.from(b).toString('base64')
const decode = s => s === null ? null : Buffer.from(s, 'base64')

function emitRecord (partition, m) {
  const headers = Object.entries(m.headers || {}).map(([key, value]) => ({ key, value: encode(value) }))
  emit({
    event: 'record',
    record: {
      partition, offset: Number(m.offset), key: encode(m.key), value: encode(m.value), headers, timestamp: Number(m.timestamp)
    }
  })
}

async function produce (kafka, topic, codec) {
  const records = []
  for await (const line of readline.createInterface({ input: process.stdin })) records.push(JSON.parse(line))
  const messages = records.map(r => ({
    partition: r.partition,
    key: decode(r.key),
    value: decode(r.value),
    timestamp: String(r.timestamp),
    headers: Object.fromEntries((r.headers || []).map(h => [h.key, decode(h.value)]))
  }))
  const producer = kafka.producer({ allowAutoTopicCreation: false })
  await producer.connect()
  const answers = await producer.send({ topic, acks: -1, compression: CODECS[codec], messages })
  await producer.disconnect()
  for (const a of answers) { // one batch per partition, in the order of its records
    let offset = Number(a.baseOffset)
    for (const r of records.filter(r => r.partition === a.partition)) {
      emit({ event: 'ack', seq: r.seq, partition: a.partition, offset: offset++ })
    }
  }
  emit({ event: 'produced', count: records.length })
}

// consumer is one whose fetch loop turns quickly: kafkajs notices a rebalance only between two fetches.
function newConsumer (kafka, groupId) {
  return kafka.consumer({
    groupId, sessionTimeout: 6000, heartbeatInterval: 300, maxWaitTimeInMs: 200, allowAutoTopicCreation: false
  })
}

async function group (kafka, topic, groupId, assignor, limit) {
  limit = Number(limit)
  const consumer = newConsumer(kafka, groupId)
  consumer.on(consumer.events.GROUP_JOIN, e => {
    emit({ event: 'assignment', partitions: e.payload.memberAssignment[topic] || [] })
  })
  let count = 0
  let reached
  const full = new Promise(resolve => { reached = resolve })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isStale, isRunning }) => {
      let last = null
      for (const m of batch.messages) {
        if (!isRunning() || isStale() || (limit > 0 && count >= limit)) break
        emitRecord(batch.partition, m)
        resolveOffset(m.offset)
        last = m.offset
        count++
      }
      if (last !== null) {
        await consumer.commitOffsets([{ topic, partition: batch.partition, offset: String(BigInt(last) + 1n) }])
      }
      await heartbeat()
      if (limit > 0 && count >= limit) reached()
    }
  })
  const ended = once(process.stdin.resume(), 'end')
  await (limit > 0 ? Promise.race([full, ended]) : ended)
  await consumer.disconnect()
  emit({ event: 'done' })
}

async function read (kafka, topic, millis) {
  const admin = kafka.admin()
  await admin.connect()
  const starts = await admin.fetchTopicOffsetsByTimestamp(topic, Number(millis))
  const ends = new Map((await admin.fetchTopicOffsets(topic)).map(o => [o.partition, Number(o.high)]))
  await admin.disconnect()
  for (const s of starts) emit({ event: 'offset', partition: s.partition, offset: Number(s.offset) })
  const left = new Map(starts.filter(s => Number(s.offset) < ends.get(s.partition)).map(s => [s.partition, ends.get(s.partition)]))
  if (left.size > 0) await readTo(kafka, topic, starts, left)
  emit({ event: 'done' })
}

// readTo needs a group, because kafkajs consumes in no other way; it seeks as soon as the group has joined.
async function readTo (kafka, topic, starts, left) {
  const consumer = newConsumer(kafka, 'read-' + randomUUID())
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: false })
  let reached
  const all = new Promise(resolve => { reached = resolve })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      emitRecord(partition, message)
      if (Number(message.offset) + 1 >= left.get(partition)) left.delete(partition)
      if (left.size === 0) reached()
    }
  })
  for (const s of starts) consumer.seek({ topic, partition: s.partition, offset: s.offset })
  await all
  await consumer.disconnect()
}

async function main () {
  const [bootstrap, command, ...args] = process.argv.slice(2)
  await zstd.init()
  const kafka = new Kafka({ clientId: 'e2e', brokers: [bootstrap], logLevel: logLevel.ERROR })
  await { produce, group, read }[command](kafka, ...args)
}

// What was printed is flushed first: a full pipe makes Node queue it, and exit drops the queue.
main().then(() => process.stdout.write('', () => process.exit(0)), error => {
  console.error(error)
  process.exit(1)
})
