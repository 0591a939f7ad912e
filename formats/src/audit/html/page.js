
"use strict";
// Search, filters and keys. Without this the page shows everything.
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const controls = one(".controls");
  if (!controls) return;
  controls.hidden = false;
  const search = one("#search");
  const filters = all(".controls select");
  const items = all("[data-item]");
  const words = new Map(items.map((item) => [item, item.textContent.toLowerCase()]));
  const shown = () => items.filter((item) => !item.hidden);

  const apply = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of items) {
      const text = words.get(item);
      const fits = filters.every((filter) => !filter.value || item.dataset[filter.name] === filter.value);
      item.hidden = !fits || !wanted.every((word) => text.includes(word));
    }
    for (const stage of all(".stage")) {
      stage.hidden = !stage.querySelector("[data-item]:not([hidden])");
    }
    const count = shown().length;
    one("#count").textContent = `${count} of ${items.length}`;
    one("#empty").hidden = count > 0;
  };
  const reset = () => {
    search.value = "";
    filters.forEach((filter) => { filter.value = ""; });
    apply();
  };
  const handle = (item) => item.querySelector("summary") || item;
  const move = (step) => {
    const list = shown();
    const at = list.findIndex((item) => item.contains(document.activeElement));
    const next = list[at < 0 ? (step > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + step, 0), list.length - 1)];
    if (next) handle(next).focus();
  };
  const openAll = () => {
    const folds = shown().map((item) => item.querySelector("details")).filter(Boolean);
    const open = folds.some((fold) => !fold.open);
    folds.forEach((fold) => { fold.open = open; });
  };
  // A link to an event shows it, whatever is filtered.
  const follow = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    if (target.hidden) reset();
    const fold = target.matches("details") ? target : target.querySelector("details");
    if (fold) {
      fold.open = true;
      handle(target).focus();
    }
    target.scrollIntoView({ block: "center" });
  };

  search.addEventListener("input", apply);
  filters.forEach((filter) => filter.addEventListener("change", apply));
  one("#reset").addEventListener("click", () => { reset(); search.focus(); });
  const unfold = one("#unfold");
  if (unfold) unfold.addEventListener("click", openAll);
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select");
    if (event.key === "Escape") {
      reset();
      document.activeElement.blur();
    } else if (typing) {
      if (event.key === "Enter" && event.target === search) move(1);
      else return;
    } else if (event.key === "/") search.focus();
    else if (event.key === "j" || event.key === "ArrowDown" && event.target.matches("summary")) move(1);
    else if (event.key === "k" || event.key === "ArrowUp" && event.target.matches("summary")) move(-1);
    else if (event.key === "o") openAll();
    else return;
    event.preventDefault();
  });
  apply();
  follow();
})();
