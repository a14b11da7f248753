/* The start page: says so when an answer of this browser still waits to be sent. */
"use strict";
(() => {
  try {
    const waiting = Object.keys(localStorage).some((k) => k.startsWith("feelprint-unsent-answer"));
    document.getElementById("kept").hidden = !waiting;
  } catch { /* storage is switched off, so nothing can wait in it */ }
})();
