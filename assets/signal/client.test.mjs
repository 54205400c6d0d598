// Tries the client against a scripted server in Node: `node --test assets/signal/client.test.mjs`.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";

// Node 18 has no CustomEvent of its own.
globalThis.CustomEvent ??= class extends Event {
  constructor(name, { detail }) {
    super(name);
    this.detail = detail;
  }
};

/** A WebSocket whose server is the test. */
class Socket {
  static OPEN = 1;
  static all = [];
  readyState = Socket.OPEN;
  sent = [];

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
    Socket.all.push(this);
  }

  send(frame) {
    this.sent.push(JSON.parse(frame));
  }

  /** As in a browser the end of the socket is told later. */
  close(code) {
    setImmediate(() => this.lose(code));
  }

  lose(code, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }

  say(message) {
    this.onmessage({ data: typeof message === "string" ? message : JSON.stringify(message) });
  }

  greet(data = {}) {
    this.say({ type: "stun_config", user_id: "user-me", data: { iceServers: [], resume_token: "token", ...data } });
  }

  enter(room, user = "user-me", users = ["user-me"]) {
    this.say({ type: "user_joined", user_id: user, room_id: room, data: JSON.stringify({ user_id: user, users }) });
  }

  last(type) {
    return this.sent.findLast((message) => message.type === type);
  }
}

/** Returns the newest socket once there are that many. */
async function socket(count) {
  const deadline = performance.now() + 10_000;
  while (Socket.all.length < count) {
    assert.ok(performance.now() < deadline, `the client made ${Socket.all.length} sockets, not ${count}`);
    await turn();
  }
  return Socket.all[count - 1];
}

const { SignalClient, SignalError, RoomFullError, iceConfiguration } = await import("../signal.js");
const EVENTS = ["state", "retry", "closed", "resumed", "abandoned", "ice", "joined", "left", "userjoined", "userleft", "roomfull", "message", "error"];
const random = Math.random;
let client;
let events;

beforeEach(() => {
  Math.random = () => 0; // The backoff takes no time.
  globalThis.WebSocket = Socket;
  Socket.all = [];
  events = [];
  client = new SignalClient("ws://server.test/ws?access=1");
  for (const name of EVENTS) client.addEventListener(name, ({ detail }) => events.push([name, detail]));
});

afterEach(() => {
  client.close();
  Math.random = random;
});

const names = () => events.map(([name]) => name);

/** Connects and enters a room. */
async function enter(room = "room-1") {
  const joined = client.join(room);
  const server = await socket(1);
  server.greet();
  await turn();
  server.enter(room);
  await joined;
  events.length = 0;
  return server;
}

test("a join is fulfilled by one's own user_joined, ack or not", async () => {
  const joined = client.join("room-1");
  const server = await socket(1);
  assert.equal(client.state, "connecting");
  server.greet({ max_room_users: 4 });
  await turn();
  assert.equal(server.last("join_room").data, '{"room_id":"room-1"}');
  server.enter("room-1", "user-me", ["user-other", "user-me"]);
  assert.deepEqual(await joined, { userId: "user-me", room: "room-1", users: ["user-other", "user-me"] });
  assert.deepEqual([client.state, client.maxRoomUsers], ["connected", 4]);
});

test("a join is refused by a full room and by errors", async () => {
  const full = client.join("room-1");
  const server = await socket(1);
  server.greet();
  await turn();
  server.say({ type: "room_full", room_id: "room-1" });
  await assert.rejects(full, (error) => error instanceof RoomFullError && error.room === "room-1");
  const bad = client.join("room 2");
  await turn();
  server.say({ type: "error", id: server.last("join_room").id, data: '{"code":400,"message":"bad room"}' });
  await assert.rejects(bad, (error) => error instanceof SignalError && error.code === 400);
  assert.equal(client.room, "");
});

test("a request ends with its ack, its error, or the loss of the connection", async () => {
  const server = await enter();
  const told = client.sendMessage({ hello: 1 }, "user-b");
  assert.deepEqual([server.last("message").target_id, server.last("message").data], ["user-b", '{"hello":1}']);
  server.say({ type: "ack", id: server.last("message").id });
  assert.deepEqual(await told, []);
  const partly = client.sendMessage({ hello: 2 });
  server.say({ type: "ack", id: server.last("message").id, missed: ["user-c"] });
  assert.deepEqual(await partly, ["user-c"]);
  const refused = client.sendMessage(1);
  server.say({ type: "error", id: server.last("message").id, data: { code: 429, message: "slow down" } });
  await assert.rejects(refused, { code: 429 });
  const lost = client.refreshIce();
  server.lose(1006);
  await assert.rejects(lost, { code: 0, message: "The connection was lost." });
});

test("a resumed session keeps its room and sends again what is kept, after what was missed", async () => {
  const first = await enter();
  first.say({ type: "message", user_id: "user-b", room_id: "room-1", data: '"1"' });
  first.greet(); // Fresh ICE servers.
  let answered = false;
  const offer = client.sendDescription("user-b", { type: "offer", sdp: "v=0" }).then(() => (answered = true));
  first.lose(1006);
  assert.equal(client.state, "reconnecting");
  const second = await socket(2);
  // user_joined and message count; stun_config does not.
  assert.equal(second.url.search, "?access=1&resume=token&got=2");
  second.greet({ resumed: true, kept: 2 });
  second.say({ type: "message", user_id: "user-b", room_id: "room-1", data: '"2"' });
  assert.equal(second.sent.length, 0);
  second.say({ type: "message", user_id: "user-b", room_id: "room-1", data: '"3"' });
  assert.equal(second.last("offer").id, first.last("offer").id);
  second.say({ type: "ack", id: second.last("offer").id });
  await offer;
  assert.ok(answered);
  assert.deepEqual(names(), ["message", "ice", "state", "retry", "state", "ice", "message", "message", "resumed"]);
  assert.equal(client.room, "room-1");
});

/** Loses the connection in a room of two and comes back to a server that tells of a gap. */
async function fall(code, kept = 1) {
  const first = await enter();
  first.enter("room-1", "user-b", ["user-me", "user-b"]);
  events.length = 0;
  first.lose(code);
  const second = await socket(2);
  assert.equal(second.url.search, "?access=1&resume=token&got=2");
  second.greet({ resumed: true, gap: true, kept });
  return second;
}

test("after a gap the members are compared and the room is kept", async () => {
  for (const code of [1006, 4002]) {
    const server = await fall(code);
    server.enter("room-1", "user-me", ["user-me", "user-c"]);
    assert.deepEqual(names(), ["state", "retry", "state", "ice", "userleft", "userjoined", "resumed"]);
    assert.deepEqual(events.slice(-3).map(([, detail]) => detail), [
      { userId: "user-b", room: "room-1", reason: "" },
      { userId: "user-c", room: "room-1", users: ["user-me", "user-c"] },
      { userId: "user-me", gap: true },
    ]);
    assert.deepEqual([client.room, client.users], ["room-1", ["user-me", "user-c"]]);
    server.enter("room-1", "user-b", ["user-me", "user-c", "user-b"]);
    assert.equal(names().at(-1), "userjoined");
    server.lose(1006);
    const third = await socket(3);
    assert.equal(third.url.searchParams.get("got"), "4"); // The numbers went on.
    third.greet({ resumed: true });
    assert.deepEqual(events.at(-1), ["resumed", { userId: "user-me", gap: false }]);
    client.close();
    Socket.all = [];
    client = new SignalClient("ws://server.test/ws?access=1");
    for (const name of EVENTS) client.addEventListener(name, ({ detail }) => events.push([name, detail]));
  }
});

test("who is in no room after a gap joins again", async () => {
  const server = await fall(1006, 0);
  await turn();
  assert.deepEqual(names(), ["state", "retry", "state", "ice", "left", "resumed"]);
  assert.equal(server.last("join_room").data, '{"room_id":"room-1"}');
  server.enter("room-1");
  assert.deepEqual(events.at(-1), ["joined", { userId: "user-me", room: "room-1", users: ["user-me"] }]);
});

test("a room that was left while there was no connection is left when there is one", async () => {
  for (const gap of [false, true]) {
    const first = await enter();
    first.lose(1006);
    await client.leave();
    const second = await socket(2);
    second.greet({ resumed: true, gap, kept: gap ? 1 : 0 });
    if (gap) second.enter("room-1");
    assert.equal(second.last("leave_room").type, "leave_room");
    assert.equal(client.room, "");
    client.close();
    Socket.all = [];
    client = new SignalClient("ws://server.test/ws?access=1");
    for (const name of EVENTS) client.addEventListener(name, ({ detail }) => events.push([name, detail]));
  }
});

test("a message without an answer is sent again under its id", async () => {
  const later = globalThis.setTimeout;
  globalThis.setTimeout = (f, ms) => later(f, ms <= 1_000 ? 0 : ms);
  try {
    const first = await enter();
    const message = client.sendMessage(1);
    const { id } = first.last("message");
    first.say({ type: "error", id, data: '{"code":503,"message":"try again"}' });
    const copies = () => first.sent.filter((sent) => sent.id === id).length;
    const deadline = Date.now() + 10_000;
    while (copies() < 2 && Date.now() < deadline) await turn();
    assert.equal(copies(), 2);
    first.lose(1006);
    const second = await socket(2);
    second.greet({ resumed: true });
    assert.equal(second.last("message").id, id);
    second.say({ type: "ack", id });
    await message;
    const never = client.request("message", { data: "2" }, { keep: true, timeout: 100 });
    second.say({ type: "error", id: second.last("message").id, data: '{"code":503,"message":"try again"}' });
    await assert.rejects(never, { code: 503 });
  } finally {
    globalThis.setTimeout = later;
  }
});

test("a message to one member that may have missed it is sent again, and one to all is not", async (t) => {
  const clock = new Clock(t);
  const server = await enter();
  const toOne = client.sendMessage(1, "user-b");
  const { id } = server.last("message");
  server.say({ type: "ack", id, missed: ["user-b"] });
  await clock.wind(1_000);
  assert.deepEqual(server.sent.map((sent) => sent.id).filter((sent) => sent === id), [id, id]);
  server.say({ type: "ack", id });
  assert.deepEqual(await toOne, []);
  const toAll = client.sendMessage(2);
  server.say({ type: "ack", id: server.last("message").id, missed: ["user-b"] });
  assert.deepEqual(await toAll, ["user-b"]);
});

/** A clock that goes on only when it is wound, until the test ends. */
class Clock {
  #now = Date.now();
  #timers = new Map();
  #next = 1;
  #real = { setTimeout, clearTimeout, now: Date.now };

  constructor(t) {
    globalThis.setTimeout = (run, ms = 0) => (this.#timers.set(this.#next, { at: this.#now + ms, run }), this.#next++);
    globalThis.clearTimeout = (id) => this.#timers.delete(id);
    Date.now = () => this.#now;
    t.after(() => {
      ({ setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout, now: Date.now } = this.#real);
    });
  }

  async wind(ms) {
    const end = this.#now + ms;
    for (;;) {
      await turn();
      const [id, timer] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0] ?? [];
      if (!timer || timer.at > end) break;
      this.#timers.delete(id);
      this.#now = Math.max(this.#now, timer.at);
      timer.run();
    }
    this.#now = end;
  }
}

test("what would come too fast waits for its turn, in order, and calls come before chat", async (t) => {
  const clock = new Clock(t);
  const server = await enter();
  server.greet({ message_rate: 10, message_burst: 10, max_message_bytes: 100 });
  const answers = [];
  for (let i = 0; i < 200; i++) answers.push(client.sendMessage(i));
  answers.push(client.sendDescription("user-b", { type: "offer", sdp: "1" }), client.sendCandidate("user-b", { candidate: "2" }));
  answers.push(client.request("leave_room"), client.sendDescription("user-b", { type: "answer", sdp: "3" }));
  let tokens = 10;
  let heard = 0;
  for (let step = 0; step < 400; step++) { // As the server counts.
    for (; heard < server.sent.length; heard++) {
      tokens--;
      server.say({ type: "ack", id: server.sent[heard].id });
    }
    assert.ok(tokens >= 0, `${heard} messages in ${step / 10} s`);
    await clock.wind(100);
    tokens = Math.min(10, tokens + 1);
  }
  await Promise.all(answers);
  const types = server.sent.map(({ type }) => type).slice(1);
  const chat = server.sent.filter(({ type }) => type === "message").map(({ data }) => Number(data));
  assert.deepEqual(chat, [...chat].sort((a, b) => a - b));
  assert.equal(chat.length, 200);
  assert.deepEqual(types.filter((type) => type !== "message"), ["offer", "ice_candidate", "leave_room", "answer"]);
  assert.ok(types.indexOf("ice_candidate") < 20, "the call waited for the chat");
  assert.deepEqual(types.slice(-2), ["leave_room", "answer"]); // Nothing overtakes the leaving.
});

test("a message that came too fast is sent again under its id when the server says, before those after it", async (t) => {
  const clock = new Clock(t);
  const server = await enter();
  const answers = [client.sendMessage(1), client.request("leave_room"), client.sendMessage(2)];
  const [first, second, third] = server.sent.slice(-3);
  for (const { id } of [second, first]) {
    server.say({ type: "error", id, data: '{"code":429,"message":"rate limit: wait 3000 ms"}' });
  }
  server.say({ type: "ack", id: third.id });
  const late = client.sendMessage(3);
  const sent = server.sent.length;
  await clock.wind(2_900);
  assert.equal(server.sent.length, sent);
  await clock.wind(200);
  assert.deepEqual(server.sent.slice(sent).map(({ id }) => id), [first.id, second.id, String(Number(third.id) + 1)]);
  for (const { id } of server.sent.slice(sent)) server.say({ type: "ack", id });
  await Promise.all([...answers, late]);
  const fresh = client.refreshIce(); // It has a limit of its own, and nothing else waits for it.
  const { id } = server.last("stun_config");
  server.say({ type: "error", id, data: '{"code":429,"message":"rate limit: wait 3000 ms"}' });
  const meanwhile = client.sendMessage(5);
  server.say({ type: "ack", id: server.last("message").id });
  await meanwhile;
  await clock.wind(3_000);
  server.say({ type: "ack", id: server.sent.at(-1).id });
  await fresh;
  const never = assert.rejects(client.sendMessage(4), { code: 429 });
  const refuse = () => server.say({ type: "error", id: server.last("message").id, data: '{"code":429,"message":"rate limit"}' });
  for (let i = 0; i < 12; i++) await Promise.all([refuse(), clock.wind(1_100)]);
  await never;
  await clock.wind(5_000);
  assert.equal(server.sent.filter(({ data }) => data === "4").length, 10); // Nobody waits for it any more.
});

test("a message that is too large is refused, and nothing else notices", async () => {
  const server = await enter();
  server.greet({ max_message_bytes: 100 });
  const sent = server.sent.length;
  const frame = { type: "message", id: "2", data: '""' };
  const room = 100 - JSON.stringify(frame).length;
  for (const [text, fits] of [["x".repeat(room), true], ["x".repeat(room + 1), false], ["é".repeat(room / 2), true], ["é".repeat(room / 2 + 1), false]]) {
    const answer = client.sendMessage(text);
    assert.equal(server.sent.length > sent, fits || server.sent.length > sent);
    if (!fits) await assert.rejects(answer, { code: 413, message: /has 10[12] bytes, and the server takes 100/ });
    else server.say({ type: "ack", id: server.last("message").id });
    if (fits) await answer;
  }
  assert.equal(server.sent.length, sent + 2);
  const refused = client.sendMessage(1);
  server.say({ type: "error", id: server.last("message").id, data: '{"code":413,"message":"message too large"}' });
  await assert.rejects(refused, { code: 413 });
  assert.deepEqual([client.state, client.room, names()], ["connected", "room-1", ["ice"]]);
});

test("a session whose next frame ends each connection is given up", async (t) => {
  const clock = new Clock(t);
  (await enter()).lose(1006);
  const say = (server) => server.say({ type: "message", user_id: "user-b", room_id: "room-1", data: "1" });
  for (let attempt = 2; attempt <= 6; attempt++) {
    const server = await resumed(attempt, clock);
    assert.equal(server.url.searchParams.get("got"), attempt === 2 ? "1" : attempt < 5 ? "2" : "3");
    server.greet({ resumed: true, kept: 2 });
    if (attempt === 2 || attempt === 4) say(server); // It has got somewhere.
    server.lose(1006);
  }
  assert.ok(!names().includes("abandoned"));
  (await resumed(7, clock)).lose(1006); // It was not even greeted, which says nothing.
  const last = await resumed(8, clock);
  last.greet({ resumed: true, kept: 1 });
  last.lose(1006);
  assert.deepEqual(events.at(-1), ["abandoned", { userId: "user-me" }]);
  const anew = await resumed(9, clock);
  assert.equal(anew.url.search, "?access=1");
  events.length = 0;
  anew.greet({ resumed: false });
  await clock.wind(0);
  anew.say({ type: "room_full", id: anew.last("join_room").id, room_id: "room-1" }); // By what was given up.
  await clock.wind(1_000);
  assert.equal(anew.sent.filter(({ type }) => type === "join_room").length, 2);
  anew.enter("room-1");
  assert.deepEqual(names(), ["left", "state", "ice", "joined"]);
});

test("a session that is lost again and again with nothing missing is kept", async (t) => {
  const clock = new Clock(t);
  (await enter()).lose(1006);
  for (let attempt = 2; attempt < 12; attempt++) {
    const server = await resumed(attempt, clock);
    assert.ok(server.url.searchParams.has("resume"));
    server.greet({ resumed: true, kept: 0 });
    server.lose(1006);
  }
});

/** Returns the socket of that attempt, whose time comes when the clock is wound. */
async function resumed(attempt, clock) {
  await clock.wind(0);
  return socket(attempt);
}

test("a lost session is left and the room is joined again under the new id", async () => {
  const first = await enter();
  const offer = client.sendDescription("user-b", { type: "offer", sdp: "v=0" });
  first.lose(1006);
  const second = await socket(2);
  second.greet({ resumed: false });
  await assert.rejects(offer, { message: "The session was lost." });
  await turn();
  assert.equal(second.last("join_room").data, '{"room_id":"room-1"}');
  second.enter("room-1", "user-me", ["user-b", "user-me"]);
  assert.deepEqual(names(), ["state", "retry", "left", "state", "ice", "joined"]);
  second.lose(1006);
  // What was counted of the old session counts no more.
  assert.equal((await socket(3)).url.searchParams.get("got"), "1");
});

test("a server that goes away is left when it says, and found again", async () => {
  const first = await enter();
  first.say({ type: "reconnect", data: { after_ms: 5, reason: "drain" } });
  assert.equal(client.state, "connected");
  const second = await socket(2);
  assert.equal(second.url.searchParams.get("got"), "1"); // user_joined, but not reconnect.
  second.greet({ resumed: true });
  assert.deepEqual(events.find(([name]) => name === "retry")[1].reason, "close code 4000");
  assert.equal(client.room, "room-1");
});

test("only a code from 4500 on ends the connection", async () => {
  const first = await enter();
  first.lose(4499);
  (await socket(2)).lose(4500, "replaced");
  assert.equal(client.state, "closed");
  assert.deepEqual(events.at(-1), ["closed", { code: 4500, reason: "replaced" }]);
  await assert.rejects(client.request("stun_config"), { code: 0 });
  for (let i = 0; i < 10; i++) await turn();
  assert.equal(Socket.all.length, 2);
});

test("close leaves the room, rejects who waits, and forgets the session", async () => {
  const first = await enter();
  const waiting = client.sendMessage(1);
  client.close();
  await assert.rejects(waiting, SignalError);
  assert.equal(first.last("leave_room").type, "leave_room");
  assert.deepEqual(names(), ["left", "state", "closed"]);
  client.connect();
  assert.equal((await socket(2)).url.search, "?access=1");
});

test("what is no message, unknown or of another room changes nothing", async () => {
  const server = await enter();
  const strange = ["no JSON", { type: "news", data: 1 }, { type: "toString" }, { type: "ack", id: "99" }];
  for (const frame of strange) server.say(frame);
  server.say({ type: "message", user_id: "user-b", room_id: "room-2", data: "1" });
  server.enter("room-2", "user-b", ["user-b"]);
  assert.deepEqual(events, []);
  server.say({ type: "message", user_id: "user-b", room_id: "room-1", data: "not JSON" });
  server.say({ type: "message", user_id: "user-b", room_id: "room-1", data: null });
  assert.deepEqual(events.map(([, { data }]) => data), ["not JSON", {}]);
});

test("a transport chooses among the ICE servers", () => {
  const turns = { urls: ["turn:h:1?transport=udp", "turn:h:1?transport=tcp", "turns:h:2"], username: "u", credential: "c" };
  const servers = [{ urls: "stun:h:1" }, turns, { urls: "turn:h:3" }];
  const urls = (transport) => iceConfiguration(servers, transport).iceServers.map((server) => server.urls);
  assert.deepEqual(iceConfiguration(servers, "all"), { iceServers: servers, iceTransportPolicy: "all" });
  assert.deepEqual(urls("relay"), [turns.urls, ["turn:h:3"]]);
  assert.deepEqual(urls("relay-udp"), [["turn:h:1?transport=udp"], ["turn:h:3"]]);
  assert.deepEqual(urls("relay-tcp"), [["turn:h:1?transport=tcp", "turns:h:2"]]);
  assert.deepEqual(urls("relay-tls"), [["turns:h:2"]]);
  assert.equal(iceConfiguration(servers, "relay-tls").iceTransportPolicy, "relay");
});

/** Has the server answer requests for ICE servers with a status, and returns the requests. */
function answerIce(status, body = {}) {
  const asked = [];
  globalThis.fetch = async (url, { headers, credentials }) => {
    asked.push([String(url), headers?.Authorization ?? credentials]);
    return { status, json: async () => body };
  };
  return asked;
}

/** Makes the client of a test anew, with a source of tokens. */
function withToken(token) {
  client = new SignalClient("wss://server.test/path/ws?access=1", { token });
  for (const name of EVENTS) client.addEventListener(name, ({ detail }) => events.push([name, detail]));
}

test("a token is shown as a subprotocol, asked for each connection and renewed in time", async () => {
  let made = 0;
  withToken(async () => `token-${++made}`);
  client.connect();
  const first = await socket(1);
  assert.deepEqual(first.protocols, ["signal.v1", "bearer.token-1"]);
  first.greet({ auth_expires_in: 1 });
  while (!first.last("auth")) await turn();
  assert.deepEqual(JSON.parse(first.last("auth").data), { token: "token-2" });
  first.greet({ auth_expires_in: 3600 });
  first.say({ type: "ack", id: first.last("auth").id });
  first.lose(1006);
  const second = await socket(2);
  assert.deepEqual(second.protocols, ["signal.v1", "bearer.token-3"]);
  assert.equal(second.url.searchParams.get("resume"), "token");
});

test("a client without a token offers no subprotocol and goes on where everybody may come in", async () => {
  const asked = answerIce(401, { error: "no session" });
  client.connect();
  const first = await socket(1);
  assert.equal(first.protocols, undefined);
  first.lose(1006);
  (await socket(2)).lose(1006);
  (await socket(3)).greet();
  assert.deepEqual(asked[0], ["http://server.test/ice", "include"]);
  assert.equal(client.state, "connected");
});

test("a client without a token gives up where one is needed", async () => {
  answerIce(401, { error: "no token", reason: "missing" });
  const connected = client.connect();
  (await socket(1)).lose(1006);
  await assert.rejects(connected, { code: 401, message: "The server lets in only who has a token or is signed in." });
  assert.equal(client.state, "closed");
  assert.equal(Socket.all.length, 1);
});

test("a page that may not show cookies gives up only for the lack of a token", async () => {
  const reasons = ["denied", "denied", "missing"];
  const fetched = [];
  globalThis.fetch = async (_url, { credentials }) => {
    fetched.push(credentials);
    if (credentials === "include") throw new TypeError("Failed to fetch");
    return { status: 401, json: async () => ({ reason: reasons.shift() }) };
  };
  const connected = client.connect();
  for (let i = 1; i <= 3; i++) {
    (await socket(i)).lose(1006);
    while (fetched.length < 2 * i) await turn();
  }
  await assert.rejects(connected, { code: 401 });
});

test("a refused token is asked for again, and given up when that does not help", async () => {
  const asked = answerIce(401);
  let made = 0;
  withToken(() => `token-${++made}`);
  const connected = client.connect();
  for (let i = 1; i <= 3; i++) (await socket(i)).lose(1006);
  await assert.rejects(connected, { code: 401, message: "The server refuses the token." });
  assert.deepEqual(asked[0], ["https://server.test/path/ice", "Bearer token-1"]);
  assert.equal(asked.length, 3);
  assert.equal(client.state, "closed");

  withToken("fixed");
  const again = client.connect();
  (await socket(4)).lose(1006);
  await assert.rejects(again, { code: 401 });
});

test("a server that is away is no reason to give up a token", async () => {
  answerIce(503);
  withToken("fixed");
  client.connect();
  for (let i = 1; i <= 5; i++) (await socket(i)).lose(1006);
  (await socket(6)).greet();
  assert.equal(client.state, "connected");
});

test("a source of tokens that fails is asked again", async () => {
  let made = 0;
  withToken(async () => {
    if (++made < 3) throw new Error("no backend");
    return "good";
  });
  client.connect();
  assert.deepEqual((await socket(1)).protocols, ["signal.v1", "bearer.good"]);
  assert.equal(events.find(([name]) => name === "retry")[1].reason, "no token: no backend");
});

test("an expired token ends the connection with a clear error", async () => {
  withToken("fixed");
  const joined = client.join("room-1");
  const first = await socket(1);
  first.greet({ auth_expires_in: 1 });
  await turn();
  first.lose(4501, "the token has expired");
  await assert.rejects(joined, { code: 4501, message: "the token has expired" });
  assert.deepEqual(events.at(-1), ["closed", { code: 4501, reason: "the token has expired" }]);
});
