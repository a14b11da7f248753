/* A set's end: the button that shares the link, by the system's own menu or by copying it. */
"use strict";
(() => {
  const button = document.getElementById("share");
  const link = document.getElementById("share-link");
  const text = button.textContent;
  button.hidden = !navigator.share && !navigator.clipboard;
  button.addEventListener("click", async () => {
    try {
      if (navigator.share) return await navigator.share({ title: button.dataset.title, url: link.value });
      await navigator.clipboard.writeText(link.value);
      button.textContent = button.dataset.copied;
      setTimeout(() => { button.textContent = text; }, 2000);
    } catch { // closed without sharing, or not permitted: the link is there to copy
      link.select();
    }
  });
  link.addEventListener("focus", () => link.select());
})();
