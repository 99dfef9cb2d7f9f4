// tapecast client: live, ordered, resumable feeds over WebSocket. No dependencies.
// Browsers, Node 20 and later. Apache-2.0. See docs/CLIENTS.md.

/** An error that the gateway reported, or the client itself (overlap, overflow, closed). */
export class TapecastError extends Error {
  constructor (code, message = '', retry = false) {
    super(message ? `${code}: ${message}` : code)
    this.name = 'TapecastError'
    this.code = code
    this.retry = retry
  }
}

const LEAVE_AFTER = 30_000 // ms that a gateway that has just started may not know a topic
const STEADY = 2_000 // ms: such a connection begins a new backoff
const PAGE_WAIT = 5_000 // ms for the tab's last page to end
const SNAPSHOT_MAX = 64 << 20 // of a snapshot under way
const BURST = 200 // commands at once; a gateway's default limits are 256 and 20 a second
const RATE = 15 // commands a second

const own = (o, k) => Object.prototype.hasOwnProperty.call(o, k)
const at = (m, p) => own(m, p) ? m[p] : 0
const call = (f, ...a) => { try { f?.(...a) } catch (e) { setTimeout(() => { throw e }) } }

/** The client's side of the promise: where a subscription stands, and whether each frame fits. */
class Tracker {
  constructor (topic, snapshot, epoch, broken) {
    Object.assign(this, { topic, snapshot, epoch, broken, next: null, skipped: {} })
  }

  bad (kind, partition, offset) {
    this.broken({ kind, topic: this.topic, partition: +partition, offset, next: this.next ? at(this.next, partition) : 0 })
  }

  data (p, f) {
    const o = f.offset
    if (f.snapshot) {
      if (!this.next) return true
    } else if (f.latest) {
      const s = this.skipped[p]
      if (s && o >= s[0] && o < s[1]) { s[0] = o + 1; return true }
    } else if (this.next && o >= at(this.next, p)) {
      this.next[p] = o + 1
      return true
    }
    this.bad('order', p, o)
    return false
  }

  gap (p, from, to, cause) {
    if (cause === 'epoch' || !this.next) return
    if (from < at(this.next, p) || to <= from) this.bad('gap', p, from)
    if (cause === 'slow') this.skipped[p] = [from, to]
    this.advance(p, to)
  }

  advance (p, o) {
    if (this.next && o > at(this.next, p)) this.next[p] = o
  }

  covered (m) {
    if (!this.next) return
    for (const p in m) {
      if (m[p] < at(this.next, p)) this.bad('coverage', p, m[p])
      this.advance(p, m[p])
    }
  }

  passed (m = {}) {
    if (!this.next && Object.keys(m).length) this.next = {} // a snapshot is complete
    for (const p in m) this.advance(p, m[p])
  }

  reset (epoch, from) {
    this.epoch = epoch
    this.skipped = {}
    this.next = { ...from }
  }

  // true: the topic has partitions that came since; they must be asked for from 0
  acked (epoch, resume, from, wanted, until) {
    const changed = this.epoch && epoch !== this.epoch
    if (changed && resume !== 'reset') this.bad('epoch', 0, 0)
    if (this.snapshot && !wanted) {
      this.epoch = epoch
      this.next = null
      return false
    }
    if (!wanted || resume === 'reset' || changed) {
      this.reset(epoch, from)
      return false
    }
    this.epoch = epoch
    this.next ??= { ...wanted }
    let more = false
    for (const p in from) {
      if (own(wanted, p)) {
        if (from[p] > wanted[p]) this.bad('hole', p, from[p])
      } else if (until) {
        this.advance(p, from[p])
      } else if (from[p] > at(this.next, p)) {
        this.next[p] = at(this.next, p)
        more = true
      }
    }
    return more
  }
}

/** One subscription: an async iterable of frames, or callbacks. Made by Client.subscribe. */
export class Subscription {
  #c
  #o
  #q = []
  #head = 0
  #kept = [] // leaves first: gaps for what was dropped, control frames
  #bytes = 0
  #wait = null
  #last = null // handed out, not yet done with
  #handed = null
  #ask = null
  #until = null
  #refusals = 0
  #lost = 0
  #push = false // callbacks take the frames
  #from

  constructor (client, topic, o) {
    this.#c = client
    this.#o = o
    this.topic = topic
    this.name = o.mode === 'snapshot' ? '' : o.remember === true ? topic : o.remember || ''
    this.keys = o.keys && new Set(o.keys)
    this.violations = []
    this.phase = 'wanted' // asked, acked, parked, held, over
    this.wire = 0
    this.due = 0
    this.error = null
    this.epoch = ''
    this.limit = o.buffer || 4 << 20
    this.overflow = o.overflow || 'block'
    this.#push = ['frame', 'data', 'gap', 'reset', 'live', 'subscribed', 'end'].some((k) => o['on' + k])
    this._begin()
  }

  _begin (place) {
    const from = this.#from = place ?? this.#o.from
    const p = from && from.offsets && from.epoch ? from : null
    this.start = p && { ...p.offsets }
    this.t = new Tracker(this.topic, this.#o.mode === 'snapshot', p ? p.epoch : '', (v) => {
      if (this.violations.length < 100) this.violations.push(v)
      this.#c._violation(v)
    })
    this.phase = 'wanted'
  }

  // nothing more until _begin
  _hold () {
    this.#q = []
    this.#kept = []
    this.#head = this.#bytes = 0
    this.phase = 'held'
  }

  /** Where the caller stands, after what it has dealt with: pass it as `from` to go on there; null = nowhere yet. */
  get position () {
    return this.#handed && { epoch: this.epoch, offsets: { ...this.#handed } }
  }

  /** Ends the subscription. */
  close () {
    this.#c._leave(this)
    this._fail(new TapecastError('closed'))
  }

  _command () {
    const o = this.#o
    const t = this.t
    const cmd = { ...o.extra, cmd: 'sub', id: this.wire ||= this.#c._id(), topic: this.topic }
    let mode = o.mode
    let from = this.#from
    this.#ask = null
    if (t.next) {
      from = { epoch: t.epoch, offsets: { ...t.next } }
      this.#ask = { ...t.next }
      if (mode === 'snapshot') mode = 'all' // it was taken
    } else if (this.start) {
      this.#ask = this.start
    }
    if (this.keys) cmd.keys = [...this.keys]
    if (from !== undefined && from !== null) cmd.from = from
    if (this.#until) cmd.until = { offsets: this.#until } // as "live" was then
    else if (o.until !== undefined) cmd.until = o.until
    if (mode && mode !== 'all') cmd.mode = mode
    if (o.intervalMs) cmd.interval_ms = o.intervalMs
    if (o.onSlow) cmd.on_slow = o.onSlow
    this.phase = 'asked'
    return cmd
  }

  _renew () {
    if (this.phase === 'asked' || this.phase === 'acked') this.phase = 'wanted'
    this.due = 0
  }

  #park () {
    this.#c._take(this)
    this.phase = 'parked'
  }

  // true: n more may be taken
  #room (n) {
    if (this.phase !== 'acked') return false
    if (!this._buffered() || this.#bytes + n <= this.limit || this.overflow === 'drop') return true
    if (this.overflow === 'block' && this.t.next) {
      this.#park()
      return false
    }
    if (this.overflow === 'block' && this.#bytes + n <= SNAPSHOT_MAX) return true
    this.#c._leave(this)
    this._fail(new TapecastError('overflow', "the subscription's buffer is full"))
    return false
  }

  _data (f, n) {
    const p = f.partition || 0
    if (!this.#room(n) || !this.t.data(p, f)) return
    this.#emit({
      kind: 'data', topic: f.topic, partition: p, offset: f.offset, key: f.key ?? null, keyBase64: f.key_base64,
      data: f.data, ts: f.ts, snapshot: !!f.snapshot, latest: !!f.latest
    }, n)
  }

  _control (f, n) {
    const kind = f.event
    const t = this.t
    const e = { ...f, kind, topic: this.topic }
    delete e.event
    delete e.id
    if (kind === 'subscribed' ? this.phase !== 'asked' : this.phase !== 'acked') return
    switch (kind) {
      case 'subscribed':
        if (t.acked(f.epoch, f.resume, f.from, this.#ask, this.#o.until !== undefined)) {
          this.#park() // asked for again at once, with them
          this.phase = 'wanted'
          this.#c._kick()
          return
        }
        this.phase = 'acked'
        this.known = true
        this.#refusals = this.#lost = 0
        if (f.until) this.#until = f.until
        break
      case 'gap':
        if (!this.#room(n)) return
        t.gap(f.partition, f.from, f.to, f.cause)
        break
      case 'reset':
        t.reset(f.epoch, f.from)
        break
      case 'heartbeat':
        t.covered(f.at)
        break
      case 'live':
      case 'end':
        t.passed(f.at)
        break
      default:
        return // a newer gateway may say more
    }
    this.#emit(e, n)
    if (this.overflow === 'block' && this.#bytes > 2 * this.limit && t.next && this.phase === 'acked') this.#park()
    if (kind === 'end') {
      this.#c._remove(this)
      this._fail(new TapecastError('end'))
    }
  }

  #emit (e, n) {
    if (this.#push) {
      this.#call(e)
      this.#hand(e)
      return
    }
    const tail = this.#q[this.#q.length - 1]
    if (e.kind === 'heartbeat' && this.#head < this.#q.length && tail.e.kind === 'heartbeat') {
      this.#bytes += n - tail.n
      this.#q[this.#q.length - 1] = { e, n }
    } else {
      this.#q.push({ e, n })
      this.#bytes += n
      if (this.overflow === 'drop') this.#drop()
    }
    this.#wake()
  }

  #call (e) {
    call(this.#o['on' + e.kind], e, this)
    call(this.#o.onframe, e, this)
  }

  #shift () {
    const x = this.#q[this.#head]
    this.#q[this.#head++] = undefined
    if (this.#head > 1024 && this.#head * 2 > this.#q.length) {
      this.#q.splice(0, this.#head)
      this.#head = 0
    }
    return x
  }

  // events become gaps, coverage is forgotten
  #drop () {
    while (this.#bytes > this.limit && this.#head < this.#q.length) {
      const x = this.#shift()
      const e = x.e
      this.#bytes -= x.n
      if (e.kind === 'data') {
        if (!e.latest) this.#missing(e.partition, e.offset, e.offset + 1) // those lie in a gap
      } else if (e.kind === 'gap' && e.cause !== 'epoch') {
        this.#missing(e.partition, e.from, e.to)
      } else if (e.kind !== 'heartbeat') {
        this.#kept.push(x)
        this.#bytes += x.n
      }
    }
    if (this.#bytes > this.limit) {
      this.#c._leave(this)
      this._fail(new TapecastError('overflow', "the subscription's buffer is full"))
    }
  }

  #missing (partition, from, to) {
    for (let i = this.#kept.length - 1; i >= 0 && this.#kept[i].e.kind === 'gap'; i--) {
      const g = this.#kept[i].e
      if (g.partition === partition && g.cause === 'buffer') {
        g.from = Math.min(g.from, from)
        g.to = Math.max(g.to, to)
        return
      }
    }
    this.#kept.push({ e: { kind: 'gap', topic: this.topic, partition, from, to, cause: 'buffer' }, n: 128 })
    this.#bytes += 128
  }

  #move (m) {
    for (const p in m) if (this.#handed && m[p] > at(this.#handed, p)) this.#handed[p] = m[p]
  }

  // moves the position that the caller has dealt with
  #hand (e) {
    switch (e.kind) {
      case 'data':
        if (!e.snapshot && !e.latest) this.#move({ [e.partition]: e.offset + 1 })
        break
      case 'gap':
        if (e.cause !== 'epoch') this.#move({ [e.partition]: e.to })
        break
      case 'subscribed':
        if (!this.#handed && this.t.snapshot) {
          this.epoch = e.epoch
          break // no position before live
        }
        if (!this.#handed || e.resume === 'reset' || e.epoch !== this.epoch) this.#handed = {}
        this.epoch = e.epoch
        this.#move(e.from)
        for (const p in e.from) this.#handed[p] ??= 0
        break
      case 'reset':
        this.epoch = e.epoch
        this.#handed = { ...e.from }
        break
      default:
        this.#handed ??= {}
        this.#move(e.at)
    }
    this.#c._moved(this)
  }

  #wake () {
    const w = this.#wait
    this.#wait = null
    w?.()
  }

  _buffered () { return this.#kept.length + this.#q.length - this.#head }

  _fail (error) {
    this.phase = 'over'
    if (this.error) return
    this.error = error
    this.#wake()
    call(this.#o.onclose, error, this)
  }

  // true: it is asked for again later
  _again (e) {
    let starting = false
    if (this.known && e.code === 'unknown_topic') {
      this.#lost ||= Date.now()
      starting = Date.now() - this.#lost < LEAVE_AFTER
    }
    if (this.phase !== 'asked' || (!e.retry && !starting)) return false
    this.phase = 'wanted'
    this.due = Date.now() + Math.max(1, this.#c._backoff(this.#refusals++))
    return true
  }

  /** The next frame; undefined at the end (see `error`). A frame counts as dealt with when the next one is asked for. */
  async next () {
    if (this.#last) this.#hand(this.#last)
    this.#last = null
    for (;;) {
      if (this._buffered()) {
        const x = this.#kept.length ? this.#kept.shift() : this.#shift()
        this.#bytes -= x.n
        if (this.#bytes <= this.limit / 2 && this.phase === 'parked') {
          this.phase = 'wanted'
          this.#c._kick()
        }
        this.#last = x.e
        return x.e
      }
      if (this.error) return undefined
      await new Promise((resolve) => { this.#wait = resolve })
    }
  }

  /** Iterates over the frames. It ends at `end` and after close(); any other error is thrown. Breaking the loop closes the subscription. */
  async * [Symbol.asyncIterator] () {
    try {
      for (let e; (e = await this.next());) yield e
      if (!['end', 'closed'].includes(this.error.code)) throw this.error
    } finally {
      if (this.#last) this.#hand(this.#last)
      this.#last = null
      this.close()
    }
  }
}

/** One multiplexed connection to a gateway, kept up. */
export class Client {
  #o
  #urls
  #ws = null
  #open = false
  #subs = []
  #wires = new Map()
  #routes = new Map()
  #owed = []
  #leaving = new Set()
  #timer = null // of the next try
  #tick = null // of commands that are due
  #silent = null
  #bye = null
  #heard = 0
  #stamp = 0 // of the connection
  #tries = 0
  #failures = 0
  #ids = 0
  #sent = 0
  #sentAt = 0
  #dirty = new Set()
  #save = null

  constructor (urls, options = {}) {
    this.#urls = [].concat(urls)
    if (!this.#urls.length) throw new TypeError('no gateway is named')
    this.#o = { minBackoff: 100, maxBackoff: 15_000, silence: 45_000, ...options }
    this.violations = 0
    this.reconnects = 0
    this.error = null
    this.state = { phase: 'connecting' }
    this.#listen(true)
    this.#timer = setTimeout(() => this.#connect())
  }

  /** Subscribes. Two subscriptions of a client may not share keys of one topic. */
  subscribe (topic, options = {}) {
    const s = new Subscription(this, topic, { ...options })
    if (this.error) throw this.error
    const r = this.#routes.get(topic) ?? { all: null, keys: new Map() }
    if (r.all || (s.keys ? [...s.keys].some((k) => r.keys.has(k)) : r.keys.size)) {
      throw new TapecastError('overlap', 'another subscription of this client has some of these keys of ' + topic)
    }
    if (s.name && this.#subs.some((x) => x.name === s.name)) {
      throw new TapecastError('overlap', 'another subscription of this client keeps its position as ' + s.name)
    }
    this.#routes.set(topic, r)
    if (s.keys) for (const k of s.keys) r.keys.set(k, s)
    else r.all = s
    this.#subs.push(s)
    if (s.name) this.#claim(s)
    else this._kick()
    return s
  }

  /** Ends the client and its subscriptions. */
  close () { this.#end(new TapecastError('closed')) }

  /** Cuts the connection and makes it anew at once: for callers who know that the network has changed. */
  reconnect () {
    if (this.error) return
    clearTimeout(this.#timer)
    this.#drop()
    this.#retry(new TapecastError('reconnect', 'asked for', true), 0)
  }

  _id () { return ++this.#ids }

  _backoff (n) {
    const round = Math.floor(n / this.#urls.length)
    return Math.random() * Math.min(this.#o.maxBackoff, this.#o.minBackoff * 2 ** Math.min(round, 30)) // full jitter
  }

  _violation (v) {
    this.violations++
    call(this.#o.onviolation, v)
  }

  #turn (state) {
    this.state = state
    call(this.#o.onstate, state)
  }

  // Takes a subscription back at the gateway; it may be asked for again.
  _take (s) {
    if (s.wire && this.#wires.delete(s.wire)) {
      this.#owed.push(s.wire)
      this.#leaving.add(s.wire)
      this._kick()
    }
    s.wire = 0
  }

  _leave (s) {
    this._take(s)
    this._remove(s)
  }

  _remove (s) {
    const i = this.#subs.indexOf(s)
    if (i < 0) return
    this.#subs.splice(i, 1)
    this.#wires.delete(s.wire)
    const r = this.#routes.get(s.topic)
    if (s.keys) for (const k of s.keys) r.keys.delete(k)
    else r.all = null
    if (!r.all && !r.keys.size) this.#routes.delete(s.topic)
    this.#flush()
    this.#release(s)
  }

  _kick () {
    if (this.#open) this.#commands()
  }

  async #connect () {
    const stamp = ++this.#stamp
    const url = this.#urls[this.#tries++ % this.#urls.length]
    this.#turn({ phase: 'connecting', url })
    let ws
    try {
      const c = (await this.#o.credentials?.()) ?? {}
      const WS = this.#o.WebSocket ?? globalThis.WebSocket ?? await nodeWebSocket()
      if (stamp !== this.#stamp || this.error) return
      const args = [c.url ?? url, ['tapecast.json.batch', 'tapecast.json', ...(c.protocols ?? [])]]
      if (c.headers) args.push({ headers: c.headers }) // not in browsers
      ws = new WS(...args)
    } catch (e) {
      if (stamp !== this.#stamp || this.error) return
      if (e.code === 'no_websocket') this.#end(e)
      else this.#retry(e)
      return
    }
    this.#ws = ws
    const mine = (f) => (e) => { if (this.#ws === ws) f(e) }
    const since = Date.now()
    this.#bye = null
    this.#alive()
    ws.onopen = mine(() => {
      this.#open = true
      this.#wires.clear()
      this.#owed = []
      this.#leaving.clear()
      this.#sent = 0
      this.#sentAt = Date.now()
      for (const s of this.#subs) s._renew()
      this.#turn({ phase: 'connected', url })
      this.#commands()
    })
    ws.onmessage = mine((e) => {
      this.#alive()
      for (const line of String(e.data).split('\n')) if (this.#ws === ws) this.#frame(line)
    })
    const over = mine((e) => {
      this.#drop()
      const bye = this.#bye
      const final = (bye && !bye.retry) || (e.code >= 4500 && e.code <= 4999) || e.code === 1008
      const error = new TapecastError(bye ? bye.code : 'close ' + e.code, bye ? bye.message : e.reason, !final)
      if (final) return this.#end(error)
      if (Date.now() - since >= STEADY) this.#failures = 0
      const w = bye && bye.wait_ms
      this.#retry(error, w ? w[0] + Math.random() * (w[1] - w[0]) : undefined)
    })
    ws.onclose = over
    ws.onerror = () => { setTimeout(over, 100, { code: 1006, reason: '' }) } // Node 20 may send no close after it
  }

  #retry (error, wait = this._backoff(this.#failures)) {
    this.#failures++
    this.reconnects++
    this.#turn({ phase: 'waiting', wait, error })
    this.#timer = setTimeout(() => this.#connect(), wait)
  }

  // lets go of the connection
  #drop () {
    const ws = this.#ws
    this.#ws = null
    this.#open = false
    this.#stamp++
    clearTimeout(this.#tick)
    clearTimeout(this.#silent)
    this.#silent = null
    try { ws?.close() } catch {}
  }

  #end (error) {
    if (this.error) return
    this.error = error
    clearTimeout(this.#timer)
    this.#flush()
    this.#drop()
    this.#listen(false)
    for (const s of this.#subs.splice(0)) {
      this.#release(s)
      s._fail(error)
    }
    this.#turn({ phase: 'closed', error })
  }

  // A connection that says nothing is asked, then given up.
  #alive () {
    this.#heard = Date.now()
    if (this.#silent) return
    const look = () => {
      const quiet = Date.now() - this.#heard
      this.#silent = null
      if (quiet >= this.#o.silence / (this.#open ? 1 : 3)) {
        this.#drop()
        this.#retry(new TapecastError('silence', 'the gateway says nothing', true))
        return
      }
      if (quiet >= this.#o.silence / 3 && this.#open) this.#ws.send('PING')
      this.#silent = setTimeout(look, this.#o.silence / 3)
      this.#silent.unref?.()
    }
    this.#silent = setTimeout(look, this.#o.silence / 3)
    this.#silent.unref?.()
  }

  #may () {
    const now = Date.now()
    const n = Math.floor((now - this.#sentAt) * RATE / 1000)
    this.#sent = Math.max(0, this.#sent - n)
    this.#sentAt += n * 1000 / RATE
    return this.#sent < BURST && ++this.#sent > 0
  }

  // sends what is due
  #commands () {
    clearTimeout(this.#tick)
    const later = (ms) => { this.#tick = setTimeout(() => this._kick(), Math.max(1, ms)) }
    while (this.#owed.length) {
      if (!this.#may()) return later(1000 / RATE)
      this.#ws.send(JSON.stringify({ cmd: 'unsub', id: this.#owed.shift() }))
    }
    let wait = Infinity
    for (const s of this.#subs) {
      if (s.phase !== 'wanted') continue
      if (s.due > Date.now()) {
        wait = Math.min(wait, s.due - Date.now())
        continue
      }
      if (!this.#may()) return later(1000 / RATE)
      const cmd = s._command()
      this.#wires.set(cmd.id, s)
      this.#ws.send(JSON.stringify(cmd))
    }
    if (wait < Infinity) later(wait)
  }

  #frame (line) {
    if (!line || line === 'PONG') return
    let f
    try { f = JSON.parse(line) } catch {
      this.#drop()
      this.#retry(new TapecastError('bad_frame', 'a frame is not JSON', true))
      return
    }
    if (f.event === undefined) {
      if (f.topic !== undefined) this.#data(f, line.length)
      return
    }
    const s = this.#wires.get(f.id)
    if (f.event === 'heartbeat') {
      for (const id in f.covered) this.#wires.get(+id)?._control({ event: 'heartbeat', ts: f.ts, at: f.covered[id] }, line.length)
    } else if (f.event === 'bye') {
      this.#bye = f
    } else if (f.event === 'error' || f.event === 'unsubscribed') {
      this.#leaving.delete(f.id)
      if (f.event === 'unsubscribed' || !s) return
      const e = new TapecastError(f.code, f.message, f.retry)
      if (s._again(e)) return this._kick()
      this._remove(s)
      s._fail(e)
    } else {
      s?._control(f, line.length)
    }
  }

  #data (f, n) {
    const r = this.#routes.get(f.topic)
    const s = r && (r.all ?? r.keys.get(f.key ?? ''))
    if (s) s._data(f, n)
    else if (!this.#leaving.size) this._violation({ kind: 'foreign', topic: f.topic, partition: f.partition || 0, offset: f.offset, next: 0 })
  }

  // positions that outlive the page: the tab's, and the newest of all tabs

  #each (f) {
    const own = this.#o.storage
    for (const store of own ? [() => own] : [() => sessionStorage, () => localStorage]) {
      try { f(store()) } catch {} // not there, forbidden, or full
    }
  }

  #recall (name) {
    let found
    this.#each((store) => {
      const p = JSON.parse(store.getItem('tapecast:' + name))
      if (p?.offsets && Object.keys(p.offsets).length) found ??= p
    })
    return found
  }

  // Begins where the tab's last page stood, once that has ended: a browser may
  // run this one before. Each page holds a lock.
  #claim (s) {
    const begin = () => {
      s._begin(this.#recall(s.name))
      this._kick()
    }
    const locks = globalThis.document && globalThis.navigator?.locks // not by plain http
    if (!locks) return begin()
    s._hold()
    const turn = s.turn = {}
    locks.request(`tapecast:${tab()}:${s.name}`, { signal: AbortSignal.timeout?.(PAGE_WAIT) }, () => s.turn === turn && new Promise((resolve) => {
      s.free = resolve
      begin()
    })).catch(() => {
      if (s.turn !== turn) return
      tab(true) // a copy of another tab
      begin()
    })
  }

  #release (s) {
    s.turn = null
    s.free?.()
    s.free = null
  }

  _moved (s) {
    if (!s.name || s.phase === 'held') return
    this.#dirty.add(s)
    this.#save ??= setTimeout(() => this.#flush(), 500)
  }

  #flush () {
    clearTimeout(this.#save)
    this.#save = null
    for (const s of this.#dirty) {
      const text = JSON.stringify(s.position)
      this.#each((store) => store.setItem('tapecast:' + s.name, text))
    }
    this.#dirty.clear()
  }

  // a laptop that opens, a network that comes back

  #hidden = () => {
    if (globalThis.document?.visibilityState === 'hidden') this.#flush()
    else this.#look()
  }

  // A page that is left gets nothing more of what the next one goes on with; if
  // it is shown again, it goes on behind that.
  #away = (e) => {
    this.#flush()
    for (const s of this.#subs.filter((x) => x.name)) {
      if (e.type === 'pagehide') {
        this._take(s)
        s._hold()
        if (e.persisted) this.#release(s) // otherwise it ends with the page
      } else if (e.persisted) this.#claim(s)
    }
  }

  #look = () => {
    if (this.error) return
    if (this.state.phase === 'waiting' && !this.#bye?.wait_ms) {
      clearTimeout(this.#timer)
      this.#connect()
    } else if (this.#open && Date.now() - this.#heard > this.#o.silence / 3) {
      this.reconnect() // timers stood still: it is most likely dead
    }
  }

  #listen (on) {
    const g = globalThis
    const f = on ? 'addEventListener' : 'removeEventListener'
    g.document?.[f]?.('visibilitychange', this.#hidden)
    g[f]?.('online', this.#look)
    g[f]?.('pagehide', this.#away)
    g[f]?.('pageshow', this.#away)
  }
}

function tab (anew) {
  try {
    return (!anew && sessionStorage.tapecast) || (sessionStorage.tapecast = Math.random())
  } catch { return Math.random() }
}

// Node 20 has no WebSocket of its own.
async function nodeWebSocket () {
  for (const name of ['ws', 'undici']) {
    try {
      const m = await import(/* @vite-ignore */ /* webpackIgnore: true */ name)
      if (m.WebSocket) return m.WebSocket
    } catch {}
  }
  throw new TapecastError('no_websocket', 'there is no WebSocket here: install ws, or pass one as an option')
}
