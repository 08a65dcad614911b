// What an operator does with one streamer: its maintenance, an edit, its deletion.
import { useState } from 'preact/hooks';
import { beginMaintenance, endMaintenance, type Shown } from '../changes';
import { streamerPath } from '../json';
import type { Session, StreamerEntity } from '../model';
import { Given, Dialog, Failure, Mark, TextInput, Time } from '../parts';
import { go, href } from '../router';
import { leftOf, stageOf } from '../streamer_rows';
import { useSteps } from '../steps';
import { t } from '../text';
import { EditStreamer } from './edit';
import { DrainDialog } from './drain';
import { Deletion } from './entity_dialogs';

/** Since when a streamer takes no new streams, why, and how far its drain is. */
export function Maintenance({ of }: { of: StreamerEntity }) {
  const maintenance = of.state?.maintenance;
  if (!maintenance) return null;
  const stage = stageOf(maintenance);
  const left = leftOf(maintenance);
  return (
    <p class="maintenance">
      <Mark of={stage} /> <b>{t(`state.${stage}`)}</b> ·{' '}
      <Time at={maintenance.drained_at ?? maintenance.since} />
      {stage === 'draining' && left !== null && <> · {t('streamer.left', { n: left })}</>}
      {!!maintenance.no_place && <> · {t('streamer.stay', { n: maintenance.no_place })}</>}
      {maintenance.reason && <> · <Given text={maintenance.reason} /></>}
    </p>
  );
}

export interface MaintenanceProps {
  /** The version on the screen behind the dialog, which is refreshed after a conflict. */
  of: Shown;
  onClose: () => void;
  onSaved: () => void;
  onFailed: () => void;
}

function CordonDialog({ of, onClose, onSaved, onFailed }: MaintenanceProps) {
  const [reason, setReason] = useState('');
  const { error, isBusy, run } = useSteps(onFailed);
  const save = () =>
    run(async () => {
      await beginMaintenance(of, reason);
      onSaved();
    });
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy} onClick={save}>
        {t('streamer.cordon')}
      </button>
    </>
  );
  return (
    <Dialog title={t('streamer.cordons', { name: of.name })} onClose={onClose} actions={actions}>
      <p>{t('streamer.cordon_means')}</p>
      <TextInput label={t('streamer.reason')} name="reason" value={reason} onType={setReason} />
      <Failure error={error} />
    </Dialog>
  );
}

interface ActionsProps {
  streamer: StreamerEntity;
  /** The tag of the version that is shown. */
  etag: string | null;
  /** The number of its streams, as far as it is known. */
  assigned: number | null;
  me: Session;
  /** Reads the streamer again. */
  onChanged: () => void;
  onFailure: (error: Error | null) => void;
}

/** The dialog that is open; a deletion is of the version that was shown when it was opened. */
type Opened = { kind: 'cordon' } | { kind: 'drain' } | { kind: 'edit' } | { kind: 'delete'; of: Shown };

export function StreamerActions(props: ActionsProps) {
  const { streamer, etag, assigned, me, onChanged, onFailure } = props;
  const [opened, setOpened] = useState<Opened | null>(null);
  const [isBusy, setBusy] = useState(false);
  const shown = { path: streamerPath(streamer.hostname), name: streamer.hostname, etag };
  const close = () => setOpened(null);
  const saved = () => {
    close();
    onFailure(null);
    onChanged();
  };
  const backToService = async () => {
    setBusy(true);
    onFailure(null);
    await endMaintenance(shown).catch(onFailure);
    setBusy(false);
    onChanged();
  };
  const common = {
    disabled: !me.may.write || isBusy,
    title: me.may.write ? undefined : t('error.not_permitted'),
  };
  return (
    <>
      {streamer.state?.maintenance ? (
        <button {...common} onClick={() => void backToService()}>
          {t('streamer.in_service')}
        </button>
      ) : (
        <button {...common} onClick={() => setOpened({ kind: 'cordon' })}>
          {t('streamer.cordon')} …
        </button>
      )}
      {streamer.state?.maintenance?.mode !== 'drain' && (
        <button {...common} onClick={() => setOpened({ kind: 'drain' })}>
          {t('streamer.drain')} …
        </button>
      )}
      <button {...common} onClick={() => setOpened({ kind: 'delete', of: shown })}>
        {t('entity.delete')} …
      </button>
      <button class="primary" {...common} onClick={() => setOpened({ kind: 'edit' })}>
        {t('stream.edit')} …
      </button>
      {opened?.kind === 'cordon' && (
        <CordonDialog of={shown} onClose={close} onSaved={saved} onFailed={onChanged} />
      )}
      {opened?.kind === 'drain' && (
        <DrainDialog of={shown} onClose={close} onSaved={saved} onFailed={onChanged} />
      )}
      {opened?.kind === 'edit' && (
        <EditStreamer streamer={streamer} me={me} onClose={close} onSaved={saved} />
      )}
      {opened?.kind === 'delete' && (
        <Deletion
          of={opened.of}
          lead={assigned ? t('streamer.has_streams', { n: assigned }) : undefined}
          onClose={close}
          onSaved={() => go(href('streamers'), { replace: true })}
        />
      )}
    </>
  );
}
