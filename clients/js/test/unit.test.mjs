import { test } from 'node:test'
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { Client } from '../tapecast.js'

// A WebSocket whose other side is the test.
class Wire {
  static all = []
  sent = []
  constructor (url, protocols) {
    Object.assign(this, { url, protocols })
    Wire.all.push(this)
    queueMicrotask(() => this.onopen())
  }

  send (text) { this.sent.push(JSON.parse(text)) }
  close () { this.closed = true }
  get (...frames) { for (const f of frames) this.onmessage({ data: JSON.stringify(f) }) }
  cut () { this.onclose({ code: 1006, reason: '' }) }
}

const soon = async (cond) => {
  const end = Date.now() + 20_000
  while (!cond()) {
    if (Date.now() > end) throw new Error('awaited in vain: ' + cond)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

class Store {
  map = new Map()
  getItem (k) { return this.map.get(k) ?? null }
  setItem (k, v) { this.map.set(k, v) }
}

const ack = (from, id = 1) => ({ event: 'subscribed', id, topic: 't', epoch: 'E', from, live: from, resume: 'exact' })
const data = (offset) => ({ topic: 't', key: 'k', data: offset, offset, ts: 1 })

async function page (options, subscription, asks = true) {
  Wire.all.length = 0
  const client = new Client('ws://x/ws', { WebSocket: Wire, minBackoff: 1, maxBackoff: 5, ...options })
  const sub = client.subscribe('t', subscription)
  await soon(() => asks ? Wire.all[0]?.sent.length : Wire.all.length)
  return { client, sub, wire: Wire.all[0] }
}

test('the module is under 8 kB gzipped', () => {
  const size = gzipSync(readFileSync(new URL('../tapecast.js', import.meta.url)), { level: 9 }).length
  console.log(`tapecast.js: ${size} bytes gzipped`)
  assert.ok(size < 8000, `${size} bytes`)
})

test('a reloaded page goes on where it was, behind what it has dealt with', async () => {
  const storage = new Store()
  const one = await page({ storage }, { remember: true, from: 'earliest' })
  assert.deepEqual(one.wire.sent[0], { cmd: 'sub', id: 1, topic: 't', from: 'earliest' })
  one.wire.get(ack({ 0: 5, 1: 0 }), data(5), data(6))
  for (const kind of ['subscribed', 'data', 'data']) assert.equal((await one.sub.next()).kind, kind)
  one.client.close() // the second event was handed out, but not dealt with
  const two = await page({ storage }, { remember: true, from: 'earliest' })
  assert.deepEqual(two.wire.sent[0].from, { epoch: 'E', offsets: { 0: 6, 1: 0 } })
  two.client.close()
})

test('positions are saved while the page is open, and when it is hidden', async () => {
  const storage = new Store()
  const listeners = {}
  globalThis.document = {
    visibilityState: 'visible',
    addEventListener: (k, f) => { listeners[k] = f },
    removeEventListener: (k) => { delete listeners[k] }
  }
  try {
    const { client, wire } = await page({ storage }, { remember: 'mine', ondata () {} })
    wire.get(ack({ 0: 5 }), data(5))
    document.visibilityState = 'hidden'
    listeners.visibilitychange()
    assert.deepEqual(JSON.parse(storage.getItem('tapecast:mine')), { epoch: 'E', offsets: { 0: 6 } })
    wire.get(data(6))
    await soon(() => JSON.parse(storage.getItem('tapecast:mine')).offsets[0] === 7)
    client.close()
    assert.deepEqual(listeners, {})
  } finally {
    delete globalThis.document
  }
})

// A tab of a browser: what its pages share, and the one that is shown.
class Tab {
  session = new Store()
  held = new Map() // lock -> those who wait for it
  asked = []
  constructor (t, local) {
    const globals = { document: { addEventListener () {} }, sessionStorage: this.session, localStorage: local, navigator: { locks: this } }
    for (const [k, value] of Object.entries(globals)) {
      const was = Object.getOwnPropertyDescriptor(globalThis, k)
      Object.defineProperty(globalThis, k, { value, configurable: true, writable: true })
      t.after(() => was ? Object.defineProperty(globalThis, k, was) : delete globalThis[k])
    }
    globalThis.addEventListener = (k, f) => this.listeners?.push([k, f])
    globalThis.removeEventListener = () => {}
    t.after(() => { delete globalThis.addEventListener; delete globalThis.removeEventListener })
  }

  // request of the Web Locks API.
  async request (name, { signal }, f) {
    this.asked.push(name)
    while (this.held.has(name)) {
      await new Promise((resolve, reject) => {
        this.held.get(name).push(resolve)
        signal?.addEventListener('abort', () => reject(signal.reason))
      })
    }
    this.held.set(name, [])
    await f()
    const waiting = this.held.get(name)
    this.held.delete(name)
    for (const next of waiting) next()
  }

  async page (options, subscription) {
    this.listeners = []
    const heard = this.listeners
    const p = await page(options, subscription, false)
    this.listeners = null
    p.tell = (type, persisted = false) => { for (const [k, f] of heard) if (k === type) f({ type, persisted }) }
    return p
  }
}

const noted = (store, name = 'mine') => JSON.parse(store.getItem('tapecast:' + name))?.offsets[0]

test('the next page of a tab begins when the last one has let go, and behind it', async (t) => {
  const local = new Store()
  const tab = new Tab(t, local)
  const got = []
  const options = { remember: 'mine', ondata: (f) => got.push(f.offset) }
  const one = await tab.page({}, options)
  await soon(() => one.wire.sent.length)
  one.wire.get(ack({ 0: 5 }), data(5))

  const two = await tab.page({}, options) // in a process of its own: the first one is not told yet
  await soon(() => tab.asked.length === 2 && two.client.state.phase === 'connected')
  one.wire.get(data(6))
  assert.deepEqual(two.wire.sent, [], 'it waits')
  one.tell('pagehide')
  assert.equal(noted(local), 7, 'noted before anything else')
  one.wire.get(data(7)) // nothing is handed out any more
  assert.deepEqual(two.wire.sent, [], 'it is still there')
  one.client.close()
  await soon(() => two.wire.sent.length)
  assert.deepEqual(two.wire.sent[0].from, { epoch: 'E', offsets: { 0: 7 } })
  two.wire.get(ack({ 0: 7 }), data(7))
  assert.deepEqual(got, [5, 6, 7])
  two.client.close()
  await soon(() => tab.held.size === 0)
})

test('a page that is shown again goes on behind the pages between', async (t) => {
  const local = new Store()
  const tab = new Tab(t, local)
  const one = await tab.page({}, { remember: 'mine' })
  await soon(() => one.wire.sent.length)
  one.wire.get(ack({ 0: 5 }), data(5), data(6), data(7), data(8))
  for (const offset of [undefined, 5, 6, 7]) assert.equal((await one.sub.next()).offset, offset)
  one.tell('pagehide', true) // the last one is in the buffer
  assert.equal(noted(local), 7, 'what the caller still has in its hands is not dealt with')

  const two = await tab.page({}, { remember: 'mine', ondata () {} })
  await soon(() => two.wire.sent.length)
  assert.deepEqual(two.wire.sent[0].from.offsets, { 0: 7 })
  two.wire.get(ack({ 0: 7 }), data(7), data(8), data(9))
  two.tell('pagehide', true)
  one.tell('pageshow', true)
  const again = one.sub.next()
  await soon(() => one.wire.sent.at(-1).cmd === 'sub' && one.wire.sent.at(-1).from.offsets[0] === 10)
  one.wire.get({ ...ack({ 0: 10 }), id: one.wire.sent.at(-1).id })
  assert.equal((await again).kind, 'subscribed')
  assert.equal(noted(local), 10)
  one.client.close()
  two.client.close()
})

test('a tab goes on where it was, a new one where any was', async (t) => {
  const local = new Store()
  const tab = new Tab(t, local)
  const at = (n) => JSON.stringify({ epoch: 'E', offsets: { 0: n } })
  local.setItem('tapecast:mine', at(50))
  const fresh = await tab.page({}, { remember: 'mine' })
  await soon(() => fresh.wire.sent.length)
  assert.deepEqual(fresh.wire.sent[0].from.offsets, { 0: 50 })
  fresh.client.close()
  tab.session.setItem('tapecast:mine', at(7))
  const own = await tab.page({}, { remember: 'mine' })
  await soon(() => own.wire.sent.length)
  assert.deepEqual(own.wire.sent[0].from.offsets, { 0: 7 })
  own.client.close()
})

test('a page that is never let go, or may not lock, is not waited for', async (t) => {
  const tab = new Tab(t, new Store())
  const real = AbortSignal.timeout
  t.after(() => { AbortSignal.timeout = real })
  AbortSignal.timeout = () => real(1)
  const one = await tab.page({}, { remember: 'mine', from: 'earliest' })
  await soon(() => one.wire.sent.length)
  const copy = await tab.page({}, { remember: 'mine', from: 'earliest' })
  await soon(() => copy.wire.sent.length)
  assert.notEqual(tab.session.tapecast, tab.asked[0].split(':')[1], 'a copy of a tab is another tab from now on')
  tab.request = async () => { throw new Error('SecurityError') }
  const framed = await tab.page({}, { remember: 'mine' })
  await soon(() => framed.wire.sent.length)
  for (const p of [one, copy, framed]) p.client.close()
})

test('one name keeps one position', async () => {
  const { client } = await page({ storage: new Store() }, { remember: true, keys: ['a'] })
  assert.throws(() => client.subscribe('t', { remember: true, keys: ['b'] }), { code: 'overlap' })
  client.subscribe('t', { remember: 't, b', keys: ['b'] }).close()
  client.subscribe('t', { remember: 't, b', keys: ['b'] }) // its name is free again
  client.close()
})

test('a page that is looked at again, or comes online, does not wait for the backoff', async () => {
  const listeners = {}
  globalThis.addEventListener = (k, f) => { listeners[k] = f }
  globalThis.removeEventListener = (k) => { delete listeners[k] }
  try {
    const { client, wire } = await page({ minBackoff: 3_600_000, maxBackoff: 3_600_000 }, {})
    wire.get(ack({ 0: 5 }), data(5))
    wire.cut()
    assert.equal(client.state.phase, 'waiting')
    listeners.online()
    await soon(() => Wire.all.length === 2 && Wire.all[1].sent.length)
    assert.deepEqual(Wire.all[1].sent[0].from, { epoch: 'E', offsets: { 0: 6 } })
    client.close()
    assert.deepEqual(listeners, {})
  } finally {
    delete globalThis.addEventListener
    delete globalThis.removeEventListener
  }
})

test('a connection that says nothing is asked, then given up', async () => {
  const { client, wire } = await page({ silence: 1500 }, {})
  const pings = []
  wire.send = (text) => pings.push(text)
  await soon(() => Wire.all.length > 1)
  assert.ok(pings.includes('PING'))
  assert.ok(wire.closed)
  client.close()
})

test('callbacks get frames at once, and a callback that throws breaks nothing', async (t) => {
  const got = []
  const errors = []
  const real = globalThis.setTimeout
  globalThis.setTimeout = (f, ms, ...args) => real(() => { try { f(...args) } catch (e) { errors.push(e) } }, ms)
  t.after(() => { globalThis.setTimeout = real })
  const { client, sub, wire } = await page({}, {
    ondata: (f) => {
      got.push(f.offset)
      if (f.offset === 1) throw new Error('of the page')
    },
    ongap: (f) => got.push(f.cause)
  })
  wire.get(ack({ 0: 0 }), data(0), data(1), { event: 'gap', id: 1, topic: 't', partition: 0, from: 2, to: 4, cause: 'poison' }, data(4))
  assert.deepEqual(got, [0, 1, 'poison', 4])
  assert.deepEqual(sub.position, { epoch: 'E', offsets: { 0: 5 } })
  await soon(() => errors.length)
  assert.equal(errors[0].message, 'of the page')
  client.close()
})

test('fresh credentials before each dial', async () => {
  let n = 0
  const credentials = async () => {
    if (++n === 2) throw new Error('the token service is away')
    return { protocols: ['token.' + n], url: 'ws://x/ws?n=' + n }
  }
  const { client, wire } = await page({ credentials }, {})
  assert.deepEqual([wire.url, wire.protocols.at(-1)], ['ws://x/ws?n=1', 'token.1'])
  wire.cut()
  await soon(() => Wire.all.length === 2)
  assert.deepEqual([Wire.all[1].url, Wire.all[1].protocols.at(-1)], ['ws://x/ws?n=3', 'token.3'])
  client.close()
})

test('gateways are tried in turn', async () => {
  Wire.all.length = 0
  const client = new Client(['ws://a/ws', 'ws://b/ws'], { WebSocket: Wire, minBackoff: 1, maxBackoff: 5 })
  for (const [i, url] of ['ws://a/ws', 'ws://b/ws', 'ws://a/ws'].entries()) {
    await soon(() => Wire.all.length > i && client.state.phase === 'connected')
    assert.equal(Wire.all[i].url, url)
    Wire.all[i].cut()
  }
  client.close()
})

test('commands keep within the limits of a gateway', async () => {
  Wire.all.length = 0
  const begun = Date.now()
  const client = new Client('ws://x/ws', { WebSocket: Wire })
  for (let i = 0; i < 240; i++) client.subscribe('t' + i)
  await soon(() => Wire.all[0]?.sent.length)
  const sent = Wire.all[0].sent.length
  const limit = 201 + (Date.now() - begun) * 15 / 1000
  assert.ok(sent <= limit, `${sent} at once, more than ${limit}`)
  await soon(() => Wire.all[0].sent.length === 240)
  client.close()
})

test('a loop that is left closes its subscription', async () => {
  const { client, sub, wire } = await page({}, {})
  wire.get(ack({ 0: 0 }), data(0), data(1))
  for await (const f of sub) if (f.kind === 'data') break
  assert.deepEqual(wire.sent.at(-1), { cmd: 'unsub', id: 1 })
  assert.deepEqual(sub.position, { epoch: 'E', offsets: { 0: 1 } })
  client.close()
})

test('the example of Node compiles', async () => {
  const { execFileSync } = await import('node:child_process')
  execFileSync(process.execPath, ['--check', new URL('../examples/node.mjs', import.meta.url).pathname])
})
