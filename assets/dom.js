/** Elements of the page. */

/**
 * Returns the element with an id, which is of a kind.
 *
 * @template {HTMLElement} [E=HTMLElement]
 * @param {string} id
 * @param {new () => E} [kind]
 * @returns {E}
 */
export function $(id, kind) {
  return known(document.getElementById(id), `#${id}`, kind);
}

/**
 * Returns the first descendant that a selector finds, which is of a kind.
 *
 * @template {HTMLElement} [E=HTMLElement]
 * @param {Element} root
 * @param {string} selector
 * @param {new () => E} [kind]
 * @returns {E}
 */
export function find(root, selector, kind) {
  return known(root.querySelector(selector), selector, kind);
}

/**
 * @template {HTMLElement} E
 * @param {Element|null} element
 * @param {string} name
 * @param {new () => E} [kind]
 * @returns {E}
 */
function known(element, name, kind) {
  if (element instanceof (kind ?? HTMLElement)) return /** @type {E} */ (element);
  throw new TypeError(`The page has no ${kind?.name ?? "element"} ${name}.`);
}

/**
 * Makes an element.
 *
 * @param {string} name
 * @param {string} className
 * @param {string} text
 */
export function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/**
 * Makes a copy of the one element that a template holds.
 *
 * @param {HTMLTemplateElement} template
 */
export function instance({ content }) {
  return /** @type {HTMLElement} */ (content.firstElementChild?.cloneNode(true));
}
