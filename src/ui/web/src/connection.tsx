// The connection in the header: live, by the clock, or none; then how old is what is shown.
import { useEffect, useState } from 'preact/hooks';
import { isUnanswered, oldestAge, onUnanswered } from './ages';
import * as f from './format';
import { liveState, onLiveState, retryAt } from './live';
import { t } from './text';

const SECOND_MS = 1000;

/** Whether the server cannot be reached, redrawn when that changes. */
function useAway() {
  const [, draw] = useState(0);
  const redraw = () => draw((n) => n + 1);
  useEffect(() => {
    const ends = [onLiveState(redraw), onUnanswered(redraw)];
    return () => ends.forEach((end) => end());
  }, []);
  const state = liveState();
  const isAway = state === 'waiting' || isUnanswered();
  useEffect(() => {
    if (!isAway) return undefined;
    const timer = setInterval(redraw, SECOND_MS);
    return () => clearInterval(timer);
  }, [isAway]);
  return { state: isAway ? ('waiting' as const) : state, isAway };
}

export function Connection() {
  const { state, isAway } = useAway();
  const at = isAway ? oldestAge() : null;
  const next = isAway ? retryAt() : null;
  const seconds = next === null ? 0 : Math.ceil((next - Date.now()) / SECOND_MS);
  return (
    <span class={`live ${state}`}>
      <span role="status">
        <i />
        {at === null ? t(`live.${state}`) : t('live.away', { at: f.clock(at) })}
      </span>
      {/* Not announced: it changes every second. */}
      {seconds > 0 && <span aria-hidden="true">{t('live.again', { n: seconds })}</span>}
    </span>
  );
}
