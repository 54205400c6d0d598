/**
 * An EventTarget that knows the events it dispatches: CustomEvents with a detail of a known shape.
 *
 * @template Events The type of the detail for each event's name.
 */
export class Emitter extends EventTarget {
  /**
   * @override
   * @template {string & keyof Events} Name
   * @param {Name} name
   * @param {((event: CustomEvent<Events[Name]>) => void) | EventListenerObject | null} listener
   * @param {boolean | AddEventListenerOptions} [options]
   */
  addEventListener(name, listener, options) {
    super.addEventListener(name, /** @type {EventListener} */ (listener), options);
  }

  /**
   * Dispatches an event.
   *
   * @protected
   * @template {string & keyof Events} Name
   * @param {Name} name
   * @param {Events[Name]} detail
   */
  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
