// Runs that do not overlap.

/** Runs `run` when called; what is requested during a run is run once more at its end. */
export function oneAtATime(run: () => Promise<void>): () => Promise<void> {
  let isRunning = false;
  let isRequested = false;
  const start = async (): Promise<void> => {
    if (isRunning) {
      isRequested = true;
      return;
    }
    isRunning = true;
    isRequested = false;
    try {
      await run();
    } finally {
      isRunning = false;
      if (isRequested) await start();
    }
  };
  return start;
}
