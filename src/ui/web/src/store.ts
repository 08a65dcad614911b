// What this browser keeps: the appearance, the language and the zone of times. Nothing else is stored.

type Kept = 'weir.theme' | 'weir.utc' | 'weir.language';

/** A kept value; `null` also where the browser keeps nothing. */
export function kept(key: Kept): string | null {
  try {
    return globalThis.localStorage?.getItem(key) ?? null;
  } catch {
    return null;
  }
}

export function keep(key: Kept, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // The choice lasts as long as the page.
  }
}
