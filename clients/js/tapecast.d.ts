/** Next offset per partition. JSON keys are strings. */
export type Offsets = Record<string, number>

/** Where a subscription stands: pass it as `from` to go on there, here or anywhere. */
export interface Position { epoch: string, offsets: Offsets }

/**
 * Where to begin: with what comes, with what Kafka still has, so many matching events back (1 to 10,000), at a time (RFC 3339,
 * milliseconds since 1970, or "-5m" before now), at the next offset wanted (topics of one partition; or by partition), or at a cursor.
 */
export type From =
  | 'live' | 'earliest'
  | { last: number }
  | { time: string | number }
  | { offset: number, epoch?: string }
  | { offsets: Offsets, epoch?: string }
  | { cursor: string }

/** Where to end, before that place: the end as it is when first asked, a time that is not in the future, or offsets. */
export type Until = 'live' | { time: string | number } | { offset: number } | { offsets: Offsets }

/** An event. Longs beyond 2^53 and decimals are strings in `data`; `null` = the key was deleted. */
export interface DataFrame<T = unknown> {
  kind: 'data'
  topic: string
  partition: number
  offset: number
  key: string | null
  /** Instead of `key` where it is not UTF-8. */
  keyBase64?: string
  data: T
  /** Milliseconds since 1970. */
  ts: number
  /** Part of a snapshot: state, not an event after it. */
  snapshot: boolean
  /** Newest value of a skipped stretch (onSlow), inside the gap reported before. */
  latest: boolean
}
/** The gateway acknowledged, again after each reconnection. */
export interface SubscribedFrame { kind: 'subscribed', topic: string, epoch: string, from: Offsets, live: Offsets, until?: Offsets, resume: 'exact' | 'clamped' | 'reset', mode?: string, cursor?: string }
/** The replay has reached the live edge. */
export interface LiveFrame { kind: 'live', topic: string, at: Offsets, replayed: number }
/** [from, to) of a partition is missing. `buffer`: dropped by this client, see `overflow`. */
export interface GapFrame { kind: 'gap', topic: string, partition: number, from: number, to: number, cause: 'retention' | 'epoch' | 'slow' | 'poison' | 'revoked' | 'buffer' | (string & {}) }
/** The topic's history is another one now; reading goes on at `from`. */
export interface ResetFrame { kind: 'reset', topic: string, epoch: string, from: Offsets, cause: 'epoch' | 'beyond' | (string & {}) }
/** `until` was reached: the last frame. */
export interface EndFrame { kind: 'end', topic: string, at: Offsets }
/** Coverage moved on. */
export interface HeartbeatFrame { kind: 'heartbeat', topic: string, ts: number, at: Offsets }
export type Frame<T = unknown> = DataFrame<T> | SubscribedFrame | LiveFrame | GapFrame | ResetFrame | EndFrame | HeartbeatFrame

/** A breach of the feed's promise that the client noticed. */
export interface Violation {
  kind: 'order' | 'coverage' | 'gap' | 'hole' | 'epoch' | 'foreign'
  topic: string
  partition: number
  offset: number
  /** What the client held. */
  next: number
}

export type State =
  | { phase: 'connecting' | 'connected', url?: string }
  | { phase: 'waiting', wait: number, error: unknown }
  | { phase: 'closed', error: TapecastError }

export interface Credentials {
  /** Instead of the gateway's URL, e.g. with a token. */
  url?: string
  /** Subprotocols offered after the client's own. */
  protocols?: string[]
  /** Not in browsers. */
  headers?: Record<string, string>
}

export interface ClientOptions {
  /** The constructor to use; default: the global one, else that of `ws` or `undici`. */
  WebSocket?: new (url: string, protocols?: string[], ...more: any[]) => any
  /** Asked before each dial, so that a token can be renewed. */
  credentials?: () => Credentials | undefined | Promise<Credentials | undefined>
  /** Bounds of the wait before a reconnection, ms: drawn from [0, b], b doubles. Defaults 100 and 15000. */
  minBackoff?: number
  maxBackoff?: number
  /** ms after which a connection that says nothing is given up. Default 45000. */
  silence?: number
  /** Where positions are kept (`remember`), instead of sessionStorage and localStorage. */
  storage?: { getItem (key: string): string | null, setItem (key: string, value: string): void }
  /** Told of the connection, in order. What a callback throws breaks nothing: it is reported as uncaught. */
  onstate?: (state: State) => void
  /** Told of each breach of the feed's promise. */
  onviolation?: (violation: Violation) => void
}

/** What the gateway does not take ends the subscription: `onclose`, `error`, or the loop's exception, with its word as `code`. */
export interface SubscribeOptions<T = unknown> {
  /** 1 to 10,000 keys of at most 4,096 bytes; default: all. */
  keys?: string[]
  /** Where to begin; default live. Not with mode snapshot. */
  from?: From
  /** Where to end; default never. `live` is the end as it is when first asked. */
  until?: Until
  /** Every event (default), the newest per key, or the state and every event after it. */
  mode?: 'all' | 'latest' | 'snapshot'
  /** Mode latest: at most one event per key in that many milliseconds, 50 to 60,000. Default 250, the gateway's. */
  intervalMs?: number
  /** What the gateway does for a client that falls off its memory: replay from Kafka (default), or a gap and the newest per key. */
  onSlow?: 'replay' | 'latest'
  /** Further fields of the command, for newer gateways. */
  extra?: Record<string, unknown>
  /**
   * Keeps the position under this name (true: the topic's) in the tab's and the browser's storage, and goes on there instead of at `from`.
   * One subscription for each name. Not with mode snapshot.
   */
  remember?: string | true
  /** Characters of frames held for a reader. Default 4,194,304. Callbacks have no buffer. */
  buffer?: number
  /** What happens beyond: `block` parks the subscription at the gateway until half is read; `drop` gives up the oldest and reports a gap; `fail` ends it. Default block. */
  overflow?: 'block' | 'drop' | 'fail'
  /** With any of these, frames are not buffered and cannot be iterated over. */
  onframe?: (frame: Frame<T>, subscription: Subscription<T>) => void
  ondata?: (frame: DataFrame<T>, subscription: Subscription<T>) => void
  onsubscribed?: (frame: SubscribedFrame, subscription: Subscription<T>) => void
  onlive?: (frame: LiveFrame, subscription: Subscription<T>) => void
  ongap?: (frame: GapFrame, subscription: Subscription<T>) => void
  onreset?: (frame: ResetFrame, subscription: Subscription<T>) => void
  onend?: (frame: EndFrame, subscription: Subscription<T>) => void
  /** The subscription is over; `error.code` tells why: end, closed, overflow, or the gateway's word. */
  onclose?: (error: TapecastError, subscription: Subscription<T>) => void
}

export class TapecastError extends Error {
  constructor (code: string, message?: string, retry?: boolean)
  readonly code: string
  readonly retry: boolean
}

export class Subscription<T = unknown> implements AsyncIterable<Frame<T>> {
  private constructor ()
  readonly topic: string
  /** The first hundred. */
  readonly violations: Violation[]
  /** Why it is over; null while it lives. */
  readonly error: TapecastError | null
  /** After what the caller has dealt with; null = nowhere yet. */
  readonly position: Position | null
  /** The next frame; undefined at the end. A frame counts as dealt with when the next one is asked for. */
  next (): Promise<Frame<T> | undefined>
  /** Takes it back at the gateway, and notes its position. Frames that are buffered can still be read. */
  close (): void
  [Symbol.asyncIterator] (): AsyncGenerator<Frame<T>, void, void>
}

export class Client {
  /** Gateways, `ws://` or `wss://`, tried in turn. It connects in the background. Throws a TypeError if none is named. */
  constructor (urls: string | string[], options?: ClientOptions)
  readonly state: State
  /** How many violations were noticed. */
  readonly violations: number
  /** How often a connection was tried again. */
  readonly reconnects: number
  /** Why it is over; null while it lives. */
  readonly error: TapecastError | null
  /**
   * Returns at once; what the gateway has against it comes later. Throws a TapecastError `overlap` where another subscription of this
   * client has some of these keys, or remembers under this name, and why the client is over, if it is.
   */
  subscribe<T = unknown> (topic: string, options?: SubscribeOptions<T>): Subscription<T>
  /** Cuts the connection and makes it anew at once: for callers who know that the network has changed. */
  reconnect (): void
  /** Ends the client and its subscriptions, and notes their positions. */
  close (): void
}
