// Requests of a dialog, one at a time.
import { useState } from 'preact/hooks';

/** `run` does one step; what is thrown in it is `error`, until the next step. */
export function useSteps(onFailure?: (error: Error) => void) {
  const [error, setError] = useState<Error | null>(null);
  const [isBusy, setBusy] = useState(false);
  const run = async (step: () => Promise<void>) => {
    setBusy(true);
    setError(null);
    try {
      await step();
    } catch (failed) {
      onFailure?.(failed as Error);
      setError(failed as Error);
    }
    setBusy(false);
  };
  return { error, isBusy, run: (step: () => Promise<void>) => void run(step) };
}
