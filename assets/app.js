/**
 * The test page.
 *
 * Parameters of its address, for links and for tests:
 *   room=NAME (or #NAME)                     the room; without it a name is proposed
 *   autojoin=1                               join at once
 *   name=TEXT                                the name shown to the others
 *   media=camera|synthetic|none              what to send
 *   transport=all|relay|relay-udp|relay-tcp|relay-tls  how to connect
 *   #token=TOKEN                             what a server wants that does not let everybody in
 *
 * `window.signalPage` tells tests and the console what is going on. It is there once the page is ready,
 * which means that it listens to everything and has begun to join. All of it is read-only:
 *   userId  string                the id given by the server, empty when not connected
 *   room    string                the room one is in, else empty
 *   state   string                idle, connecting, joined, reconnecting, closed or full
 *   users   string[]              everybody in the room in join order, oneself included
 *   chat    {from, text, own}[]   the messages; `from` is a user id
 *   log     string[]              the lines of the log
 *   peers() Promise<object[]>     for each other person: id, connectionState, iceConnectionState, localType,
 *                                 remoteType, protocol, relayProtocol, relayUrl, framesDecoded, framesSent,
 *                                 bytesReceived, bytesSent, roundTripTime, dataChannel; see stats.js
 *   sendChat(text), join(room): Promise, leave()
 *   client  SignalClient          for its events
 */

import { Call, RoomFullError, SignalClient, SignalError } from "./signal.js";
import { proposeRoom, rememberRoom, roomLink, takeToken } from "./address.js";
import { $, find } from "./dom.js";
import { LocalMedia } from "./media.js";
import { copy, dismiss, notify } from "./notice.js";
import { Chat, Connections, Log, tabs } from "./panel.js";
import { tellReach } from "./reach.js";
import { inspect, Rates, route, speak } from "./stats.js";
import { Tiles } from "./tiles.js";

const SELF = "self";
const SAMPLE_MS = 1000;

/** @import { Peer, Transport } from "./signal.js" */
/** @import { Kind } from "./media.js" */
/** @typedef {"idle"|"connecting"|"joined"|"reconnecting"|"closed"|"full"} PageState */

const lobby = $("lobby", HTMLFormElement);
const joinButton = $("join", HTMLButtonElement);
const roomInput = $("room", HTMLInputElement);
const nameInput = $("name", HTMLInputElement);
const chatInput = $("chat-text", HTMLInputElement);
const transportSelect = $("transport", HTMLSelectElement);
const params = new URLSearchParams(location.search);

const client = new SignalClient(undefined, { token: takeToken() });
const call = new Call(client);
const media = new LocalMedia();
const tiles = new Tiles($("tiles"), $("tile-template", HTMLTemplateElement));
const chat = new Chat($("chat"), $("chat-empty"));
const log = new Log($("log"));
const connections = new Connections($("peers"), $("peer-template", HTMLTemplateElement), $("peers-empty"));
const rates = new Rates();
/**
 * What the others told of themselves, by id.
 *
 * @type {Map<string, {name: string, audio: boolean, video: boolean, screen: boolean}>}
 */
const people = new Map();

/** @type {PageState} */
let state = "idle";
let unread = 0;

/** @type {Partial<Record<PageState, string>>} */
const STATUS = {
  idle: "Not connected",
  connecting: "Connecting…",
  reconnecting: "Connection lost, reconnecting…",
  closed: "The server ended the connection",
  full: "The room is full",
};

/** @param {PageState} next */
function setState(next) {
  state = next;
  document.body.dataset.state = next;
  const inCall = next === "joined" || next === "reconnecting";
  lobby.hidden = inCall;
  $("call").hidden = !inCall;
  $("room-box").hidden = !inCall;
  joinButton.disabled = next === "connecting";
  joinButton.textContent = next === "connecting" ? "Joining…" : "Join";
  showStatus();
}

function showStatus() {
  const count = client.users.length;
  const here = count === 1 ? "Only you are here" : `${count} people here`;
  $("status-text").textContent = STATUS[state] ?? here;
}

const guest = (/** @type {string} */ id) => `Guest ${id.slice(-4)}`;
const ownName = () => nameInput.value.trim() || guest(client.userId);
const nameOf = (/** @type {string} */ id) => people.get(id)?.name || guest(id);

/** @param {string} room */
async function join(room) {
  dismiss();
  rememberRoom(room);
  roomInput.value = room;
  if (!client.room) setState("connecting");
  try {
    await client.connect();
    if (!media.tracks.audio && !media.tracks.video) await startMedia();
    await client.join(room);
  } catch (error) {
    refused(/** @type {Error} */ (error), room);
  }
}

async function startMedia() {
  const chosen = new FormData(lobby).get("media");
  tell(await media.start(/** @type {"camera"|"synthetic"|"none"} */ (chosen), ownName()));
}

/** @param {Kind} kind */
async function toggle(kind) {
  tell(await media.toggle(kind));
}

/** @param {string} problem In plain words; empty when there is none. */
function tell(problem) {
  if (!problem) return;
  log.add(problem, "warn");
  notify(problem);
}

/**
 * Tells why a room could not be entered.
 *
 * @param {Error} error
 * @param {string} room
 */
function refused(error, room) {
  log.add(`Could not join ${room}: ${error.message}`, "error");
  if (client.room || state === "idle" || state === "closed") return;
  const full = error instanceof RoomFullError;
  const code = error instanceof SignalError ? error.code : 0;
  const most = client.maxRoomUsers || "the most possible number of";
  const text = full
    ? `The room is full: ${most} people are in it. Wait until somebody leaves, or take another room.`
    : `The room could not be entered: ${error.message}${code ? ` (error ${code})` : ""}`;
  hangUp(full ? "full" : "idle");
  notify(text, "Try again", () => join(room));
}

function leave() {
  dismiss();
  hangUp("idle");
  joinButton.focus();
}

/** @param {PageState} next */
function hangUp(next) {
  client.close();
  media.stop();
  tiles.clear();
  people.clear();
  chat.clear();
  setState(next);
}

/** @param {string} text */
function sendChat(text) {
  const clean = text.trim();
  if (!clean || !client.room) return;
  call.send(JSON.stringify({ type: "chat", text: clean }));
  chat.add(client.userId, "", clean, true);
}

/**
 * Tells one person, or everybody, who one is and what one sends.
 *
 * @param {string} [id]
 */
function introduce(id) {
  const info = { type: "info", name: ownName(), audio: media.on("audio"), video: media.on("video"), screen: media.sharing };
  call.send(JSON.stringify(info), id);
}

/** @param {Peer} peer @param {any} data What came over the data channel. */
function heard(peer, data) {
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    message = { type: "chat", text: data };
  }
  if (message.type === "info") {
    const { name = "", audio = false, video = false, screen = false } = message;
    people.set(peer.id, { name: String(name).slice(0, 40), audio, video, screen });
    showPeer(peer);
  } else if (message.type === "chat") {
    chat.add(peer.id, nameOf(peer.id), String(message.text).slice(0, 2000), false);
    if ($("pane-chat").hidden || $("panel").hidden) setUnread(unread + 1);
  }
}

/** @param {number} count */
function setUnread(count) {
  unread = count;
  $("unread").hidden = count === 0;
  $("unread").textContent = String(count);
  $("unread").setAttribute("aria-label", `${count} unread`);
}

/** @type {Partial<Record<RTCPeerConnectionState, string>>} */
const VEILS = {
  new: "Connecting…",
  connecting: "Connecting…",
  disconnected: "The connection is weak…",
  failed: "The connection is lost, trying again…",
};

/** @param {Peer} peer @param {import("./tiles.js").Shown} news What is known beside. */
function showPeer(peer, news = {}) {
  const told = people.get(peer.id);
  const connected = peer.pc.connectionState;
  tiles.show(peer.id, {
    name: nameOf(peer.id),
    stream: peer.stream,
    audio: told?.audio ?? true,
    video: (told?.video ?? true) && peer.stream.getVideoTracks().length > 0,
    screen: told?.screen,
    state: connected,
    veil: VEILS[connected] ?? "",
    ...news,
  });
}

function showSelf() {
  if (!client.room) return;
  tiles.show(SELF, {
    own: true,
    name: ownName(),
    stream: call.stream,
    audio: media.on("audio"),
    video: media.on("video"),
    mirrored: media.mirrored && !media.sharing,
    screen: media.sharing,
    state: "connected",
  });
}

/**
 * Shows the state of a button.
 *
 * @param {string} id
 * @param {boolean} pressed
 * @param {string|null} icon Null to leave it.
 * @param {string} label
 */
function control(id, pressed, icon, label) {
  const button = $(id);
  button.setAttribute("aria-pressed", String(pressed));
  if (icon) button.querySelector("use")?.setAttribute("href", `#${icon}`);
  find(button, "span").textContent = label;
}

function showControls() {
  const [audio, video] = [media.on("audio"), media.on("video")];
  control("mic", !audio, audio ? "i-mic" : "i-mic-off", audio ? "Mute" : "Unmute");
  control("camera", !video, video ? "i-cam" : "i-cam-off", video ? "Stop video" : "Start video");
  control("screen", media.sharing, null, media.sharing ? "Stop sharing" : "Share");
}

async function mediaChanged() {
  showControls();
  for (const kind of /** @type {Kind[]} */ (["audio", "video"])) {
    const [sent] = call.stream.getTracks().filter((track) => track.kind === kind);
    if (media.tracks[kind] !== (sent ?? null)) await call.setTrack(kind, media.tracks[kind]);
  }
  showSelf();
  introduce();
}

async function share() {
  try {
    await media.share();
  } catch (reason) {
    const error = /** @type {Error} */ (reason);
    if (error.name === "NotAllowedError") return; // The user changed their mind.
    notify("This browser cannot share the screen here.");
    log.add(`Sharing the screen: ${error.message}`, "error");
  }
}

/** @param {boolean} shown */
function showPanel(shown) {
  $("panel").hidden = !shown;
  $("panel-toggle").setAttribute("aria-expanded", String(shown));
  if (shown && !$("pane-chat").hidden) setUnread(0);
}

/** Measures all connections once a second, one measurement at a time. */
async function sample() {
  const peers = await Promise.all([...call.peers.values()].map(measure));
  connections.show(peers);
  setTimeout(sample, SAMPLE_MS);
}

/** @param {Peer} peer */
async function measure(peer) {
  const stats = await inspect(peer);
  const down = rates.of(`${peer.id} in`, stats.bytesReceived);
  const up = rates.of(`${peer.id} out`, stats.bytesSent);
  const way = route(stats);
  if (call.peers.has(peer.id)) showPeer(peer, { route: way && `${way} · ${speak(down)}` });
  return { ...stats, down, up, name: nameOf(peer.id) };
}

function listenToClient() {
  client.addEventListener("state", ({ detail: { state: connection } }) => {
    log.add(`Connection: ${connection}`);
    if (connection === "reconnecting" && state === "joined") setState("reconnecting");
  });
  client.addEventListener("retry", ({ detail: { attempt, delay, reason } }) => {
    log.add(`No connection (${reason}); attempt ${attempt} in ${Math.round(delay)} ms`, "warn");
    if (attempt < 3) return;
    if (state === "connecting") notify("The server does not answer. The page keeps trying; check your network meanwhile.");
    if (state === "reconnecting") notify("The server has not been reachable for a while. Calls that work go on; the page keeps trying.");
  });
  client.addEventListener("resumed", () => {
    log.add("Session resumed");
    dismiss();
    if (client.room) setState("joined");
  });
  client.addEventListener("abandoned", () => log.add("The session cannot be resumed: the page begins a new one", "warn"));
  client.addEventListener("joined", ({ detail: { userId, room, users } }) => {
    log.add(`Joined ${room} as ${userId}, ${users.length} in the room`);
    if (state === "reconnecting") dismiss();
    $("room-name").textContent = room;
    document.title = `${room} · signal`;
    setState("joined");
    showSelf();
  });
  client.addEventListener("userjoined", ({ detail: { userId } }) => {
    log.add(`${userId} joined`);
    showStatus();
  });
  client.addEventListener("userleft", ({ detail: { userId, reason } }) => {
    log.add(`${userId} left${reason && ` (${reason})`}`);
    showStatus();
  });
  client.addEventListener("ice", ({ detail: { iceServers, ttl } }) => {
    const urls = iceServers.flatMap((server) => server.urls).join(", ");
    log.add(`ICE servers: ${urls || "none"}${ttl ? `, for ${ttl} s` : ""}`);
  });
  client.addEventListener("ice", () => tellReach(client.iceServers).catch(() => {}), { once: true }); // What it does not hear, the node does not need.
  client.addEventListener("roomfull", ({ detail: { room } }) => {
    if (state === "reconnecting") refused(new RoomFullError(room), room);
  });
  client.addEventListener("error", ({ detail: { code, message } }) => {
    log.add(`Error ${code}: ${message}`, "error");
    notify(`The server says: ${message} (error ${code})`);
  });
  client.addEventListener("closed", ({ detail: { code, reason } }) => {
    if (code === 1000) return;
    log.add(`Closed for good: ${code} ${reason}`, "error");
    const { value: room } = roomInput;
    hangUp("closed");
    notify(`The server ended the connection${reason && `: ${reason}`} (code ${code}).`, "Join again", () => join(room));
  });
}

function listenToCall() {
  call.addEventListener("peer", ({ detail: { peer } }) => showPeer(peer));
  call.addEventListener("track", ({ detail: { peer } }) => showPeer(peer));
  call.addEventListener("open", ({ detail: { peer } }) => introduce(peer.id));
  call.addEventListener("data", ({ detail: { peer, data } }) => heard(peer, data));
  call.addEventListener("peerleft", ({ detail: { peer } }) => {
    tiles.remove(peer.id);
    people.delete(peer.id);
    rates.forget(`${peer.id} in`, `${peer.id} out`);
  });
  call.addEventListener("peerstate", ({ detail: { peer, state: connection } }) => {
    log.add(`${peer.id}: ${connection}`);
    showPeer(peer);
    if (connection === "failed" && call.transport === "all") {
      notify(`No way was found to ${nameOf(peer.id)}. A firewall may be in between.`, "Try TURN over TCP", () => setTransport("relay-tcp"));
    }
  });
  call.addEventListener("error", ({ detail: { peer, error } }) => log.add(`${peer.id}: ${error.message}`, "error"));
}

/**
 * Connects in another way; connections that exist take it up when the room is joined again.
 *
 * @param {string} transport `all` is taken for what is none.
 */
async function setTransport(transport) {
  transportSelect.value = transport;
  call.transport = /** @type {Transport} */ (transportSelect.value || "all");
  transportSelect.value = call.transport;
  log.add(`Transport: ${call.transport}`);
  const { room } = client;
  if (!room) return;
  await client.leave();
  await join(room);
}

function listenToUser() {
  lobby.addEventListener("submit", (event) => {
    event.preventDefault();
    join(roomInput.value.trim());
  });
  $("new-room").addEventListener("click", () => {
    roomInput.value = proposeRoom();
    rememberRoom(roomInput.value);
  });
  $("leave").addEventListener("click", leave);
  $("mic").addEventListener("click", () => toggle("audio"));
  $("camera").addEventListener("click", () => toggle("video"));
  $("screen").addEventListener("click", share);
  $("panel-toggle").addEventListener("click", () => showPanel(Boolean($("panel").hidden)));
  $("panel-close").addEventListener("click", () => {
    showPanel(false);
    $("panel-toggle").focus();
  });
  transportSelect.addEventListener("change", () => setTransport(transportSelect.value));
  $("copy-link").addEventListener("click", () => copy(roomLink(client.room), $("copy-link")));
  $("log-copy").addEventListener("click", () => copy(log.lines.join("\n"), $("log-copy")));
  $("log-clear").addEventListener("click", () => log.clear());
  $("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sendChat(chatInput.value);
    chatInput.value = "";
  });
  tabs(find($("panel"), "[role=tablist]"), (pane) => {
    if (pane === "pane-chat") setUnread(0);
  });
}

function start() {
  const room = params.get("room") || decodeURIComponent(location.hash.slice(1)) || proposeRoom();
  roomInput.value = room;
  nameInput.value = params.get("name") ?? "";
  const chosen = document.querySelector(`[name=media][value="${CSS.escape(params.get("media") ?? "")}"]`);
  if (chosen instanceof HTMLInputElement) chosen.checked = true;
  const transport = params.get("transport");
  if (transport) setTransport(transport);
  $("screen").hidden = !navigator.mediaDevices?.getDisplayMedia;
  showPanel(matchMedia("(min-width: 56rem)").matches);
  rememberRoom(room);
  showControls();
  sample();
  if (params.get("autojoin") === "1") join(room);
}

media.addEventListener("change", mediaChanged);
tiles.addEventListener("blocked", () => {
  notify("The browser keeps the sound off until you allow it.", "Turn the sound on", () => tiles.unmute());
});
// A page that goes away says so, lest the others wait for it to come back.
addEventListener("pagehide", () => client.close());
addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
listenToClient();
listenToCall();
listenToUser();
start();

const signalPage = Object.freeze({
  get userId() { return client.userId; },
  get room() { return client.room; },
  get state() { return state; },
  get users() { return [...client.users]; },
  get chat() { return [...chat.messages]; },
  get log() { return [...log.lines]; },
  peers: () => Promise.all([...call.peers.values()].map(inspect)),
  sendChat,
  join,
  leave,
  client,
});
Object.assign(window, { signalPage });
