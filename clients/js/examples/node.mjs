// node examples/node.mjs [TOPIC] [URL]   (Node 20: npm install --no-save ws first, or node --experimental-websocket)
import { Client } from '../tapecast.js'

const [topic = 'quotes', url = 'ws://127.0.0.1:8080/ws'] = process.argv.slice(2)
const client = new Client(url, {
  onstate: (s) => console.error(s.phase, s.url ?? '', s.error?.message ?? ''),
  onviolation: (v) => console.error('the feed broke its promise:', v)
})
const feed = client.subscribe(topic, { from: { last: 10 } })
process.stdout.on('error', () => client.close()) // nobody reads any more
process.once('SIGINT', () => {
  console.error('go on with', JSON.stringify(feed.position))
  client.close()
})
try {
  for await (const f of feed) {
    if (f.kind === 'data') console.log(f.partition, f.offset, f.key, JSON.stringify(f.data))
    if (f.kind === 'gap' || f.kind === 'reset') console.error(f)
  }
} catch (e) { // the gateway does not take it: unknown_topic, say
  console.error(e.message)
  process.exitCode = 1
}
client.close()
