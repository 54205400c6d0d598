/** Room names and the address of the page. */

const KINDS = ["amber", "bright", "calm", "coral", "gentle", "golden", "green", "merry", "quiet", "silver", "sunny", "swift"];
const THINGS = ["birch", "brook", "cedar", "cloud", "falcon", "harbor", "island", "lantern", "meadow", "otter", "river", "willow"];

/** Returns a room name that can be read out over the phone. */
export function proposeRoom() {
  const pick = (/** @type {string[]} */ words) => words[Math.floor(Math.random() * words.length)];
  return `${pick(KINDS)}-${pick(THINGS)}-${100 + Math.floor(Math.random() * 900)}`;
}

/**
 * Returns the link to a room that is for others: without one's own name and choices.
 *
 * @param {string} room
 */
export function roomLink(room) {
  const url = new URL(location.href);
  url.hash = "";
  url.search = "";
  url.searchParams.set("room", room);
  return url.href;
}

/**
 * Keeps the address such that a reload comes back to the same room with the same choices.
 *
 * @param {string} room
 */
export function rememberRoom(room) {
  const url = new URL(location.href);
  url.hash = "";
  url.searchParams.set("room", room);
  history.replaceState(null, "", url);
}

/**
 * Returns the token behind the # of the address, where no server and no proxy sees it, if there is one, and takes it out
 * of there, lest somebody passes it on with the link.
 */
export function takeToken() {
  const token = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return token;
}
