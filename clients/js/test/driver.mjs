// Does what it is told on standard input, one JSON object a line, and tells
// what the client hands out. Used by clients/conformance and by the proof.
import { createInterface } from 'node:readline'
import { Client } from '../tapecast.js'

let client
let subs
let say

// What a client of an earlier run still says is told apart by its number.
const tell = (run) => (say = (o) => process.stdout.write(JSON.stringify({ run, ...o }) + '\n'))

async function read (as, tell = say, s = subs.get(as)) {
  for (let f; (f = await s.next());) {
    if (f.kind !== 'heartbeat') tell({ as, frame: f })
  }
  tell({ as, over: s.error.code })
}

function subscribe ({ as, topic, hold, callbacks, ...options }) {
  const tell = say
  if (callbacks) {
    options.onframe = (f) => { if (f.kind !== 'heartbeat') tell({ as, frame: f }) }
    options.onclose = (e) => tell({ as, over: e.code })
  }
  try {
    subs.set(as, client.subscribe(topic, options))
  } catch (e) {
    say({ as, over: e.code })
    return
  }
  if (!hold && !callbacks) read(as)
}

const verbs = {
  open (o) {
    client?.close()
    subs = new Map()
    verbs.another(o)
  },
  another ({ run, urls, options }) {
    const say = tell(run)
    client = new Client(urls, {
      ...options,
      onstate: (s) => say({ state: s.phase }),
      onviolation: (violation) => say({ violation })
    })
  },
  subscribe,
  read: ({ as }) => { read(as) },
  close: ({ as }) => subs.get(as).close(),
  position: ({ as }) => say({ as, position: subs.get(as).position }),
  reconnect: () => client.reconnect(),
  end: () => client.close(),
  quit () {
    client.close()
    process.stdout.write('', () => process.exit(0))
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const cmd = JSON.parse(line)
  verbs[cmd.do](cmd)
}
process.exit(0)
