/**
 * Browser client of the signaling server, as one ES module without dependencies.
 *
 * {@link SignalClient} speaks the wire contract over one WebSocket that mends itself.
 * {@link Call} keeps one RTCPeerConnection for each other member of the room.
 *
 * ```js
 * import { SignalClient, Call } from "https://signal.example.org/signal.js";
 *
 * const client = new SignalClient();
 * const call = new Call(client);
 * call.addEventListener("track", ({ detail }) => show(detail.peer.id, detail.peer.stream));
 * call.addEventListener("peerleft", ({ detail }) => hide(detail.peer.id));
 *
 * const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
 * for (const track of stream.getTracks()) await call.setTrack(track.kind, track);
 * await client.join("room-123");
 * ```
 *
 * @module signal
 */

const REQUEST_TIMEOUT_MS = 10_000;
const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
/** A connection that lived this long was a good one: the next loss starts the backoff anew. */
const STABLE_MS = 5_000;
/** After this much silence a connection must prove itself when the network or the tab comes back. */
const STALE_MS = 20_000;
const PROBE_TIMEOUT_MS = 4_000;
/** How long a socket that is being closed may take to confirm it. */
const GOODBYE_MS = 1_000;
/** How long the later joiner leaves the first offer to the other side. */
const FIRST_OFFER_MS = 1_500;
const MAX_EARLY_CANDIDATES = 256;
/** Below this many bits per second pictures are sent at half their size. */
const SMALL_BITRATE = 700_000;

/** A refusal by the server, or a request that got no answer (code 0). */
export class SignalError extends Error {
  /**
   * @param {number} code The code of the wire contract, such as 404 or 503; 0 when there was no answer.
   * @param {string} message What went wrong, in words.
   */
  constructor(code, message) {
    super(message);
    this.name = "SignalError";
    this.code = code;
  }
}

/** The room holds its maximum of users. */
export class RoomFullError extends SignalError {
  /** @param {string} room The room that could not be entered. */
  constructor(room) {
    super(0, `The room ${room} is full.`);
    this.name = "RoomFullError";
    this.room = room;
  }
}

/**
 * Returns the delay before an attempt to reconnect: exponential backoff with full jitter, so that
 * the clients of a restarted server do not return all at once.
 *
 * @param {number} attempt The number of attempts that failed so far.
 * @returns {number} Milliseconds.
 */
export function backoff(attempt) {
  return Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** attempt);
}

/**
 * Returns the WebSocket URL of the server that this module was loaded from.
 *
 * @returns {string}
 */
export function defaultURL() {
  const url = new URL("ws", import.meta.url);
  url.protocol = url.protocol === "http:" ? "ws:" : "wss:";
  url.search = "";
  return url.href;
}

/** Reads the data of a message, which is a JSON document in a string or a plain value. */
function readData(data) {
  if (typeof data !== "string") return data;
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}

/**
 * A connection to the signaling server.
 *
 * Once connected it stays so: a lost WebSocket is replaced after a backoff, the session is resumed
 * when the server offers that, and otherwise the room is joined again. Only `close()` and the close
 * codes 4500–4999 end it.
 *
 * Events are CustomEvents; this is their `detail`:
 *
 * | event | detail | when |
 * |---|---|---|
 * | `state` | `{state}` | `state` changed |
 * | `retry` | `{attempt, delay, reason}` | the connection was lost and will be replaced in `delay` ms |
 * | `closed` | `{code, reason}` | the connection ended for good |
 * | `resumed` | `{userId}` | a lost connection was replaced and nothing was missed |
 * | `ice` | `{iceServers, ttl}` | fresh ICE servers |
 * | `joined` | `{userId, room, users}` | you are in a room; `users` in join order |
 * | `left` | `{room}` | you are no longer in that room |
 * | `userjoined` | `{userId, room, users}` | somebody else joined |
 * | `userleft` | `{userId, room, reason}` | somebody else left |
 * | `roomfull` | `{room}` | a join was refused |
 * | `offer`, `answer`, `candidate` | `{from, data}` | a peer's description or candidate |
 * | `message` | `{from, data}` | a peer's app message |
 * | `error` | `{code, message}` | an error that answers no request |
 */
export class SignalClient extends EventTarget {
  /** @type {"idle"|"connecting"|"connected"|"reconnecting"|"closed"} */
  state = "idle";
  /** Your own id, as the server gave it; empty before the first connection. */
  userId = "";
  /** The room you are in, or empty. */
  room = "";
  /** @type {string[]} The members of the room in join order, yourself included. */
  users = [];
  /** @type {RTCIceServer[]} The newest ICE servers. */
  iceServers = [];
  /** The most users a room can hold, or 0 when the server did not say. */
  maxRoomUsers = 0;

  #url;
  #timeout;
  #ws = null;
  #ready = null;
  #timer = 0;
  #attempt = 0;
  #readyAt = 0;
  #heardAt = 0;
  #returnAt = 0;
  #resumeToken = "";
  /** How many frames of this session have come, those apart that are of one socket only. */
  #got = 0;
  /** Frames that still have to come of those that a resumed session had kept. */
  #missed = 0;
  /** The room to be in after a reconnect; unlike `room` it survives the loss of a connection. */
  #wanted = "";
  #join = null;
  #rejoining = false;
  #nextId = 1;
  /** Requests without an answer yet: id → {message, keep, resolve, reject, timer}. */
  #pending = new Map();

  /**
   * @param {string} [url] The server's WebSocket URL; the server of this module by default.
   * @param {{timeout?: number}} [options] `timeout`: milliseconds a request may wait for its answer.
   */
  constructor(url = defaultURL(), { timeout = REQUEST_TIMEOUT_MS } = {}) {
    super();
    this.#url = url;
    this.#timeout = timeout;
  }

  /**
   * Connects. It is safe to call at any time: a connection that exists or is being made is used.
   *
   * @returns {Promise<void>} Fulfilled once the server has sent the first ICE servers.
   */
  connect() {
    if (this.#ready) return this.#ready.promise;
    const { promise } = this.#awaitReady();
    globalThis.addEventListener?.("online", this.#probe);
    globalThis.document?.addEventListener("visibilitychange", this.#probe);
    this.#setState("connecting");
    this.#open();
    return promise;
  }

  /**
   * Enters a room, and leaves the present one if it is another. Connects first when needed.
   *
   * @param {string} room 1–128 characters of `A–Z a–z 0–9 . _ ~ : @ + -`.
   * @returns {Promise<{userId: string, room: string, users: string[]}>} Rejected with a
   *   {@link RoomFullError} when the room is full and with a {@link SignalError} otherwise.
   */
  async join(room) {
    await this.connect();
    this.#join?.reject(new SignalError(0, "Another join took its place."));
    this.#wanted = room;
    try {
      return await this.#enter(room);
    } catch (error) {
      if (this.#wanted === room) this.#wanted = this.room;
      throw error;
    }
  }

  /** Leaves the room, if you are in one. */
  async leave() {
    const room = this.room;
    this.#wanted = "";
    this.#join?.reject(new SignalError(0, "You left before the room was entered."));
    if (!room) return;
    const told = this.state === "connected" ? this.request("leave_room") : Promise.resolve();
    this.#leftRoom();
    await told.catch(() => {});
  }

  /** Leaves the room and closes the connection for good, until `connect()` is called again. */
  close() {
    this.#wanted = "";
    if (this.room) {
      this.#write({ type: "leave_room" });
      this.#leftRoom();
    }
    this.#end(1000, "closed by the client");
  }

  /**
   * Sends an app message to one member, or to the whole room.
   *
   * @param {any} data Anything that JSON can express.
   * @param {string} [target] The id of the member; everybody when it is missing.
   */
  sendMessage(data, target) {
    return this.request("message", { target_id: target, data: JSON.stringify(data) });
  }

  /** @param {string} target @param {RTCSessionDescription} description An offer or an answer. */
  sendDescription(target, { type, sdp }) {
    return this.request(type, { target_id: target, data: JSON.stringify({ sdp, type }) }, { keep: true });
  }

  /** @param {string} target @param {RTCIceCandidate} candidate */
  sendCandidate(target, candidate) {
    return this.request("ice_candidate", { target_id: target, data: JSON.stringify(candidate) }, { keep: true });
  }

  /** Asks for fresh ICE servers; they come as an `ice` event and in `iceServers`. */
  refreshIce() {
    return this.request("stun_config");
  }

  /**
   * Sends any message of the wire contract under an id of its own and waits for its ack.
   *
   * @param {string} type The type of the message.
   * @param {object} [fields] Its further fields.
   * @param {{keep?: boolean, timeout?: number}} [options] `keep`: while the connection is being
   *   replaced the message waits, and is sent (again) if the session can be resumed.
   * @returns {Promise<void>} Rejected with a {@link SignalError}.
   */
  request(type, fields = {}, { keep = false, timeout = this.#timeout } = {}) {
    const waits = keep && this.state === "reconnecting";
    if (this.state !== "connected" && !waits) {
      return Promise.reject(new SignalError(0, "There is no connection to the server."));
    }
    const id = String(this.#nextId++);
    const message = { type, id, ...fields };
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, new SignalError(0, `No answer to ${type}.`)), timeout);
      this.#pending.set(id, { message, keep, resolve, reject, timer });
      if (!waits) this.#write(message);
    });
  }

  #awaitReady() {
    this.#ready = resolvers();
    this.#ready.promise.catch(() => {}); // Nobody has to wait for it.
    return this.#ready;
  }

  #open() {
    const url = new URL(this.#url);
    if (this.#resumeToken) {
      url.searchParams.set("resume", this.#resumeToken);
      url.searchParams.set("got", this.#got);
    }
    const ws = new WebSocket(url);
    this.#ws = ws;
    ws.onmessage = ({ data }) => {
      this.#heardAt = Date.now();
      this.#receive(data);
    };
    ws.onclose = ({ code, reason }) => {
      if (ws === this.#ws) this.#lost(code, reason);
    };
  }

  #write(message) {
    if (this.#ws?.readyState === WebSocket.OPEN) this.#ws.send(JSON.stringify(message));
  }

  /**
   * Gives the present socket up. A server that lives says goodbye, and can be asked to resume only
   * then; a dead one would take long to be noticed, so the wait for it is short.
   */
  #drop(reason) {
    const ws = this.#ws;
    if (!ws) return;
    ws.close(4000, reason);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (ws === this.#ws) this.#lost(4000, reason);
    }, GOODBYE_MS);
  }

  #lost(code, reason) {
    this.#ws = null;
    if (code >= 4500 && code <= 4999) {
      this.#end(code, reason);
      return;
    }
    if (this.#readyAt && Date.now() - this.#readyAt >= STABLE_MS) this.#attempt = 0;
    this.#readyAt = 0;
    this.#failPending((request) => !request.keep, "The connection was lost.");
    const delay = this.#returnAt ? Math.max(0, this.#returnAt - Date.now()) : backoff(this.#attempt);
    this.#returnAt = 0;
    this.#attempt++;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), delay);
    if (this.state === "connected") this.#awaitReady();
    this.#setState(this.state === "connecting" ? "connecting" : "reconnecting");
    this.#emit("retry", { attempt: this.#attempt, delay, reason: reason || `close code ${code}` });
  }

  #end(code, reason) {
    if (!this.#ready) return;
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.("online", this.#probe);
    globalThis.document?.removeEventListener("visibilitychange", this.#probe);
    const ws = this.#ws;
    const ready = this.#ready;
    this.#ws = this.#ready = null;
    this.#attempt = this.#readyAt = this.#returnAt = 0;
    this.#resumeToken = "";
    this.#got = this.#missed = 0;
    this.#wanted = "";
    this.userId = "";
    if (ws && ws.readyState <= WebSocket.OPEN) ws.close(1000);
    const error = new SignalError(code, reason || "The connection is closed.");
    ready.reject(error);
    this.#join?.reject(error);
    this.#failPending(() => true, error.message);
    this.#leftRoom();
    this.#setState("closed");
    this.#emit("closed", { code, reason });
  }

  /** Finds out whether the connection survived the loss of the network or the sleep of the tab. */
  #probe = async (event) => {
    if (event.type === "visibilitychange" && document.visibilityState !== "visible") return;
    if (!this.#ws && this.#ready && event.type === "online") {
      clearTimeout(this.#timer);
      this.#open();
      return;
    }
    if (this.state !== "connected" || Date.now() - this.#heardAt < STALE_MS) return;
    const ws = this.#ws;
    await this.request("stun_config", {}, { timeout: PROBE_TIMEOUT_MS }).catch(() => {});
    if (ws === this.#ws && Date.now() - this.#heardAt >= PROBE_TIMEOUT_MS) this.#drop("no answer to a probe");
  };

  #receive(frame) {
    let message;
    try {
      message = JSON.parse(frame);
    } catch {
      return;
    }
    const counts = message.type !== "stun_config" && message.type !== "reconnect";
    if (counts) this.#got++;
    const handle = this.#handlers[message.type];
    handle?.(message, readData(message.data) ?? {});
    if (counts && this.#missed > 0 && --this.#missed === 0) this.#resumed();
  }

  #handlers = {
    stun_config: (message, data) => this.#configured(message, data),
    user_joined: (message, data) => this.#userJoined(message, data),
    user_left: (message, data) => this.#userLeft(message, data),
    room_full: (message) => this.#roomFull(message),
    error: (message, data) => this.#error(message, data),
    ack: ({ id }) => this.#settle(id),
    reconnect: (_, data) => this.#told(data),
    offer: (message, data) => this.#relayed("offer", message, data),
    answer: (message, data) => this.#relayed("answer", message, data),
    ice_candidate: (message, data) => this.#relayed("candidate", message, data),
    message: (message, data) => this.#relayed("message", message, data),
  };

  #relayed(name, { user_id: from, room_id: room }, data) {
    if (!room || room === this.room) this.#emit(name, { from, data });
  }

  #configured({ user_id: userId }, data) {
    this.iceServers = data.iceServers ?? [];
    this.maxRoomUsers = data.max_room_users ?? this.maxRoomUsers;
    if (data.resume_token) this.#resumeToken = data.resume_token;
    const first = this.#readyAt === 0;
    const returned = first && this.state === "reconnecting";
    if (first) this.#readyAt = Date.now();
    if (first && !data.resumed) this.#got = this.#missed = 0;
    if (returned && !data.resumed) this.#forgetRoom();
    if (userId) this.userId = userId;
    if (first) this.#setState("connected");
    this.#emit("ice", { iceServers: this.iceServers, ttl: data.ttl ?? 0 });
    if (returned && data.resumed) {
      this.#missed = data.kept ?? 0;
      if (this.#missed === 0) this.#resumed();
    } else if (returned) {
      this.#rejoin();
    }
    this.#ready?.resolve();
  }

  /** All that came while there was no connection is here, the answers to what is sent again too. */
  #resumed() {
    for (const { message } of this.#pending.values()) this.#write(message);
    this.#emit("resumed", { userId: this.userId });
    if (this.#wanted !== this.room) this.#rejoin();
  }

  /** The server knows nothing of the old session: its id, its room and what was on its way are gone. */
  #forgetRoom() {
    this.#failPending(({ keep }) => keep, "The session was lost.");
    this.#leftRoom();
    this.userId = "";
  }

  /** Enters the wanted room again, and does not give up while that makes sense. */
  async #rejoin() {
    if (this.#rejoining) return;
    this.#rejoining = true;
    for (let attempt = 0; this.#wanted && this.state === "connected" && this.room !== this.#wanted; attempt++) {
      const room = this.#wanted;
      try {
        await this.#enter(room);
      } catch (error) {
        const final = error instanceof RoomFullError || [400, 401, 403].includes(error.code);
        if (final && this.#wanted === room) this.#wanted = "";
        if (final) this.#emit("error", { code: error.code, message: error.message });
        else await new Promise((resolve) => setTimeout(resolve, backoff(attempt)));
      }
    }
    this.#rejoining = false;
  }

  /** Asks for a room and waits for the own user_joined, which every server sends, ack or not. */
  async #enter(room) {
    const join = resolvers();
    join.room = room;
    this.#join = join;
    this.request("join_room", { data: JSON.stringify({ room_id: room }) }).catch((error) => {
      if (error.code !== 0 || this.room !== room) join.reject(error);
    });
    try {
      return await join.promise;
    } finally {
      if (this.#join === join) this.#join = null;
    }
  }

  #userJoined({ user_id: userId, room_id: room }, { users = [] }) {
    // Before one's own user_joined no other event of the room comes, so the first one names oneself.
    if (!this.userId) this.userId = userId;
    if (userId !== this.userId) {
      if (room !== this.room) return;
      this.users = users;
      this.#emit("userjoined", { userId, room, users });
      return;
    }
    if (this.room && this.room !== room) this.#leftRoom();
    this.room = room;
    this.users = users;
    const detail = { userId, room, users };
    this.#emit("joined", detail);
    if (this.#join?.room === room) this.#join.resolve(detail);
  }

  #userLeft({ user_id: userId, room_id: room }, { reason = "" }) {
    if (room !== this.room) return;
    if (userId === this.userId) {
      this.#wanted = "";
      this.#leftRoom();
      return;
    }
    this.users = this.users.filter((user) => user !== userId);
    this.#emit("userleft", { userId, room, reason });
  }

  #roomFull({ room_id: room, id }) {
    const error = new RoomFullError(room);
    if (id) this.#settle(id, error);
    if (this.#join?.room === room) this.#join.reject(error);
    this.#emit("roomfull", { room });
  }

  #error({ id }, { code = 0, message = "" }) {
    if (id) {
      this.#settle(id, new SignalError(code, message));
      return;
    }
    if (code === 410) {
      this.#resumeToken = "";
      if (this.state === "connected") {
        this.#leftRoom();
        this.#rejoin();
      }
    }
    this.#emit("error", { code, message });
  }

  #told({ after_ms: after = 0, reason = "" }) {
    this.#returnAt = Date.now() + after;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#drop(reason), after);
  }

  #leftRoom() {
    const room = this.room;
    if (!room) return;
    this.room = "";
    this.users = [];
    this.#emit("left", { room });
  }

  #settle(id, error) {
    const request = this.#pending.get(id);
    if (!request) return;
    this.#pending.delete(id);
    clearTimeout(request.timer);
    if (error) request.reject(error);
    else request.resolve();
  }

  #failPending(which, message) {
    for (const [id, request] of this.#pending) {
      if (which(request)) this.#settle(id, new SignalError(0, message));
    }
  }

  #setState(state) {
    if (state === this.state) return;
    this.state = state;
    this.#emit("state", { state });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function resolvers() {
  const box = {};
  box.promise = new Promise((resolve, reject) => Object.assign(box, { resolve, reject }));
  return box;
}

/**
 * How a call may connect: directly or relayed (`all`), only through TURN (`relay`), and only through
 * TURN that is itself reached over UDP (`relay-udp`), over TCP or TLS (`relay-tcp`) or over TLS
 * (`relay-tls`).
 *
 * @typedef {"all"|"relay"|"relay-udp"|"relay-tcp"|"relay-tls"} Transport
 */

/**
 * Returns the configuration of a peer connection for a way to connect.
 *
 * @param {RTCIceServer[]} iceServers
 * @param {Transport} transport
 * @returns {RTCConfiguration}
 */
export function iceConfiguration(iceServers, transport) {
  if (transport === "all") return { iceServers, iceTransportPolicy: "all" };
  const servers = iceServers
    .map((server) => ({ ...server, urls: [server.urls].flat().filter((url) => relays(url, transport)) }))
    .filter(({ urls }) => urls.length > 0);
  return { iceServers: servers, iceTransportPolicy: "relay" };
}

function relays(url, transport) {
  const scheme = url.split(":", 1)[0].toLowerCase();
  if (scheme !== "turn" && scheme !== "turns") return false;
  if (transport === "relay") return true;
  if (transport === "relay-tls") return scheme === "turns";
  const named = /[?&]transport=(\w+)/i.exec(url)?.[1].toLowerCase();
  return (named ?? (scheme === "turns" ? "tcp" : "udp")) === transport.slice("relay-".length);
}

/** Returns the session of the connection that a description is of (RFC 8829, section 5.2.1). */
function sessionOf({ sdp }) {
  return /^o=\S+ (\S+)/m.exec(sdp)?.[1] ?? "";
}

/**
 * One other member of the room and the connection to it.
 *
 * It negotiates by the perfect negotiation pattern of the WebRTC specification: either side may
 * offer at any time, and when two offers meet, the polite side takes its own back.
 */
export class Peer {
  /** The user id of the member. */
  id;
  /** @type {RTCPeerConnection} */
  pc;
  /** @type {RTCDataChannel} The data channel, the same on both sides without any negotiation. */
  channel;
  /** What the member sends. */
  stream = new MediaStream();

  #call;
  #client;
  #polite;
  #closed = false;
  #makingOffer = false;
  #ignoreOffer = false;
  #settingAnswer = false;
  #early = [];
  #firstOffer = 0;
  #session = ""; // that of the member's connection, as its descriptions name it
  #senders = new Map();

  /** Peers are made by {@link Call}. */
  constructor(call, client, id, polite, configuration) {
    this.#call = call;
    this.#client = client;
    this.#polite = polite;
    this.id = id;
    this.pc = new RTCPeerConnection({ ...configuration, bundlePolicy: "max-bundle" });
    this.pc.onnegotiationneeded = () => this.#negotiate();
    this.pc.onicecandidate = ({ candidate }) => this.#sendCandidate(candidate);
    this.pc.oniceconnectionstatechange = () => {
      if (this.pc.iceConnectionState === "failed") this.pc.restartIce();
    };
    this.pc.onconnectionstatechange = () => call.changed(this);
    this.pc.ontrack = ({ track }) => this.#received(track);
    this.channel = this.pc.createDataChannel("data", { negotiated: true, id: 0 });
    this.channel.onopen = () => call.channelOpened(this);
    this.channel.onmessage = ({ data }) => call.received(this, data);
  }

  /** Sends a track, or nothing when it is null, in place of what was sent of its kind. */
  async setTrack(kind, track, stream) {
    const sender = this.#senders.get(kind);
    if (sender) await sender.replaceTrack(track);
    else if (track) this.#senders.set(kind, this.pc.addTrack(track, stream));
  }

  /** Limits what is sent of video, in bits per second; a small picture is all that fits into little. */
  async limitVideo(maxBitrate) {
    const sender = this.#senders.get("video");
    const parameters = sender?.getParameters();
    const [encoding] = parameters?.encodings ?? [];
    const small = maxBitrate < SMALL_BITRATE && sender.track?.contentHint !== "detail";
    const scaleResolutionDownBy = small ? 2 : 1;
    const same = encoding?.maxBitrate === maxBitrate && encoding.scaleResolutionDownBy === scaleResolutionDownBy;
    if (!encoding || same) return;
    Object.assign(encoding, { maxBitrate, scaleResolutionDownBy });
    await sender.setParameters(parameters).catch(() => {}); // It is only a wish.
  }

  /** Uses other ICE servers from the next ICE restart on. */
  configure(configuration) {
    this.pc.setConfiguration({ ...this.pc.getConfiguration(), ...configuration });
  }

  /** Looks for another path if the present one goes through a relay of ours that is not among those that last. */
  async leaveRelay(lasting) {
    const stats = new Map(await this.pc.getStats());
    const pair = stats.get([...stats.values()].find(({ type }) => type === "transport")?.selectedCandidatePairId);
    const local = stats.get(pair?.localCandidateId);
    if (local?.candidateType === "relay" && !lasting.has(local.url)) this.pc.restartIce();
  }

  /** Ends the connection. */
  close() {
    this.#closed = true;
    clearTimeout(this.#firstOffer);
    this.pc.close();
    for (const track of this.stream.getTracks()) track.stop();
  }

  #received(track) {
    for (const old of this.stream.getTracks()) {
      if (old.kind === track.kind) this.stream.removeTrack(old);
    }
    this.stream.addTrack(track);
    this.#call.tracked(this, track);
  }

  /**
   * Both sides of a new connection want to negotiate at once. The later joiner waits a little for
   * the offer of the other side, so that the first two offers do not meet as a matter of course.
   */
  #negotiate() {
    if (!this.#polite || this.pc.remoteDescription) {
      this.#offer();
      return;
    }
    clearTimeout(this.#firstOffer);
    this.#firstOffer = setTimeout(() => {
      if (!this.pc.remoteDescription && this.pc.signalingState === "stable") this.#offer();
    }, FIRST_OFFER_MS);
  }

  async #offer() {
    try {
      this.#makingOffer = true;
      await this.pc.setLocalDescription();
      this.#sendDescription();
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#makingOffer = false;
    }
  }

  /** Says whether a description is of another connection of the member than the one so far. */
  isFromAnother(description) {
    return this.#session !== "" && sessionOf(description) !== this.#session;
  }

  /** Takes an offer or an answer of the member. */
  async describe(description) {
    try {
      const ready =
        !this.#makingOffer && (this.pc.signalingState === "stable" || this.#settingAnswer);
      const collision = description.type === "offer" && !ready;
      this.#ignoreOffer = !this.#polite && collision;
      // An answer without an offer is one that came twice, because its sender resumed its session.
      const stale = description.type === "answer" && this.pc.signalingState === "stable";
      if (this.#ignoreOffer || stale) return;
      clearTimeout(this.#firstOffer);
      this.#settingAnswer = description.type === "answer";
      await this.pc.setRemoteDescription(description);
      this.#session = sessionOf(description);
      this.#settingAnswer = false;
      await this.#addEarly();
      if (description.type === "offer") {
        await this.pc.setLocalDescription();
        this.#sendDescription();
      }
    } catch (error) {
      this.#settingAnswer = false;
      this.#failed(error);
    }
  }

  /** Takes a candidate of the member. */
  async candidate(candidate) {
    if (!this.pc.remoteDescription) {
      // Candidates of an offer that was ignored have nothing to wait for.
      if (!this.#ignoreOffer && this.#early.length < MAX_EARLY_CANDIDATES) this.#early.push(candidate);
      return;
    }
    try {
      await this.pc.addIceCandidate(candidate);
    } catch (error) {
      if (!this.#ignoreOffer) this.#failed(error);
    }
  }

  async #addEarly() {
    for (const candidate of this.#early.splice(0)) await this.candidate(candidate);
  }

  #sendDescription() {
    this.#client.sendDescription(this.id, this.pc.localDescription).catch((error) => this.#failed(error));
  }

  #sendCandidate(candidate) {
    // The end of candidates is implied in their absence, and the contract has no message for it.
    if (!candidate?.candidate) return;
    this.#client.sendCandidate(this.id, candidate).catch((error) => this.#failed(error));
  }

  #failed(error) {
    if (!this.#closed) this.#call.failed(this, error);
  }
}

/**
 * The connections to all other members of the room that a {@link SignalClient} is in.
 *
 * Events are CustomEvents; this is their `detail`:
 *
 * | event | detail | when |
 * |---|---|---|
 * | `peer` | `{peer}` | a member appeared; its connection is being made |
 * | `peerleft` | `{peer}` | a member left; its connection is closed |
 * | `peerstate` | `{peer, state}` | `peer.pc.connectionState` changed |
 * | `track` | `{peer, track}` | the member sends a track; it is in `peer.stream` |
 * | `open` | `{peer}` | the data channel to the member is open |
 * | `data` | `{peer, data}` | the member sent something over the data channel |
 * | `error` | `{peer, error}` | a step of the negotiation failed |
 */
export class Call extends EventTarget {
  /** @type {Map<string, Peer>} The other members, by user id. */
  peers = new Map();
  /** @type {MediaStream} What is sent to everybody. */
  stream = new MediaStream();

  #client;
  #transport;
  #uplink;
  #self = "";

  /**
   * @param {SignalClient} client The connection whose room the call takes place in.
   * @param {{transport?: Transport, uplink?: number}} [options] `uplink`: bits per second of video
   *   that are shared out among all members.
   */
  constructor(client, { transport = "all", uplink = 4_000_000 } = {}) {
    super();
    this.#client = client;
    this.#transport = transport;
    this.#uplink = uplink;
    const on = (name, handle) => client.addEventListener(name, ({ detail }) => handle(detail));
    on("joined", (detail) => this.#joined(detail));
    on("userjoined", ({ userId, users }) => this.#add(userId, users));
    on("userleft", ({ userId }) => this.#remove(userId));
    on("left", () => this.#clear());
    on("ice", () => this.#configure());
    on("offer", ({ from, data }) => this.#offered(from, { type: "offer", sdp: data.sdp }));
    on("answer", ({ from, data }) => this.peers.get(from)?.describe({ type: "answer", sdp: data.sdp }));
    on("candidate", ({ from, data }) => this.peers.get(from)?.candidate(data));
  }

  /** How connections may be made; see {@link Transport}. */
  get transport() {
    return this.#transport;
  }

  /**
   * Sets how new connections may be made. Browsers keep the path of a connection that works even
   * when its policy changes, so leave and join the room again to have all connections obey.
   */
  set transport(transport) {
    this.#transport = transport;
  }

  /**
   * Sends a track to everybody, now and later, in place of the one of its kind that was sent so far.
   *
   * @param {"audio"|"video"} kind
   * @param {MediaStreamTrack|null} track Null to send nothing.
   */
  async setTrack(kind, track) {
    for (const old of this.stream.getTracks()) {
      if (old.kind === kind) this.stream.removeTrack(old);
    }
    if (track) this.stream.addTrack(track);
    await Promise.all([...this.peers.values()].map((peer) => peer.setTrack(kind, track, this.stream)));
    this.#shareUplink();
  }

  /**
   * Sends text over the data channels.
   *
   * @param {string} text
   * @param {string} [id] The member to send it to; everybody when it is missing.
   * @returns {number} To how many members it was handed.
   */
  send(text, id) {
    const to = id ? [this.peers.get(id)] : [...this.peers.values()];
    const open = to.filter((peer) => peer?.channel.readyState === "open");
    for (const { channel } of open) channel.send(text);
    return open.length;
  }

  #joined({ userId, users }) {
    // Under a new id one is a new member to the others, and they have closed the old connections.
    if (userId !== this.#self) this.#clear();
    this.#self = userId;
    for (const id of [...this.peers.keys()]) {
      if (!users.includes(id)) this.#remove(id);
    }
    for (const id of users) this.#add(id, users);
  }

  /**
   * Takes an offer. A member that has begun anew has seen this side leave and join again, because
   * the node of one of them could not be reached: this side begins anew as well, as later joiner.
   */
  #offered(from, description) {
    if (this.peers.get(from)?.isFromAnother(description)) {
      this.#remove(from);
      this.#connect(from, true);
    }
    this.peers.get(from)?.describe(description);
  }

  #add(id, users) {
    if (id === this.#self || this.peers.has(id)) return;
    this.#connect(id, users.indexOf(this.#self) > users.indexOf(id));
  }

  #connect(id, polite) {
    const peer = new Peer(this, this.#client, id, polite, this.#configuration());
    this.peers.set(id, peer);
    for (const track of this.stream.getTracks()) peer.setTrack(track.kind, track, this.stream);
    this.#emit("peer", { peer });
    this.#shareUplink();
  }

  #remove(id) {
    const peer = this.peers.get(id);
    if (!peer) return;
    this.peers.delete(id);
    peer.close();
    this.#emit("peerleft", { peer });
    this.#shareUplink();
  }

  #clear() {
    for (const id of [...this.peers.keys()]) this.#remove(id);
  }

  #configuration() {
    return iceConfiguration(this.#client.iceServers, this.#transport);
  }

  /** A node that goes away takes its relays along before long: goes over to others while they last. */
  #configure() {
    const lasting = new Set(this.#client.iceServers.flatMap(({ urls }) => urls));
    for (const peer of this.peers.values()) {
      try {
        peer.configure(this.#configuration());
        peer.leaveRelay(lasting).catch((error) => this.failed(peer, error));
      } catch (error) {
        this.failed(peer, error);
      }
    }
  }

  #shareUplink() {
    const share = Math.round(this.#uplink / Math.max(1, this.peers.size));
    for (const peer of this.peers.values()) peer.limitVideo(share);
  }

  /** @package */
  changed(peer) {
    this.#emit("peerstate", { peer, state: peer.pc.connectionState });
    if (peer.pc.connectionState === "connected") this.#shareUplink();
  }

  /** @package */
  tracked(peer, track) {
    this.#emit("track", { peer, track });
  }

  /** @package */
  channelOpened(peer) {
    this.#emit("open", { peer });
  }

  /** @package */
  received(peer, data) {
    this.#emit("data", { peer, data });
  }

  /** @package */
  failed(peer, error) {
    this.#emit("error", { peer, error });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
